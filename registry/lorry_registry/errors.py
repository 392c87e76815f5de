"""What can go wrong, in the domain's words.

Every part below the gRPC services raises these and nothing of grpc; one table (`lorry_registry.rpc`) turns each
kind into a status code. A message names the value, the rule and the way out; what is variable in it also stands
in `metadata`, so that no client has to parse prose.
"""


class LorryError(Exception):
    """A failure that the caller is told about.

    Args:
        message: one sentence or two for a human.
        reason: UPPER_SNAKE_CASE, at most 63 characters; stable, for programs (`google.rpc.ErrorInfo.reason`).
        metadata: the variable parts of the message.
    """

    def __init__(self, message: str, *, reason: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(LorryError):
    """The request is wrong whatever the state of the system."""


class NotFound(LorryError):
    """What the request names does not exist."""


class AlreadyExists(LorryError):
    """What the request would create exists."""


class FailedPrecondition(LorryError):
    """The system is not in the state that the request needs; trying again alone does not help."""


class Unauthenticated(LorryError):
    """Nobody knows who calls."""


class PermissionDenied(LorryError):
    """The caller is known, and may not do this."""


class Aborted(LorryError):
    """Somebody else changed it first (a stale etag): read again, then retry."""


class OutOfRange(LorryError):
    """An offset beyond what is there."""


class ResourceExhausted(LorryError):
    """A queue, a budget or a disk is full; `retry_after_seconds` in the metadata where waiting helps."""


class DataLoss(LorryError):
    """Bytes that do not match their digest."""


class Unavailable(LorryError):
    """The server, or something it needs, is away for now: retry."""


class DeadlineExceeded(LorryError):
    """The caller's time was up."""


class Internal(LorryError):
    """A bug of ours."""
