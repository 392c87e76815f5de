"""What can go wrong, as the caller sees it: one class per status code that a program may want to tell apart.

Servers send `google.rpc.ErrorInfo` with every error, so a program looks at `reason` and `metadata`, never at prose.
Importing this module imports no grpc.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc


class LorryError(Exception):
    """A call that failed.

    Attributes:
        message: one sentence or two for a human.
        code: the status code's name, `NOT_FOUND`.
        reason: UPPER_SNAKE_CASE and stable, for programs; the code's name where the server sent none.
        metadata: the variable parts of the message.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        code: str | None = None,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason or self.code
        self.metadata = dict(metadata or {})


class Cancelled(LorryError):
    """The call was cancelled."""

    default_code = "CANCELLED"


class InvalidArgument(LorryError):
    """The request is wrong whatever the state of the system."""

    default_code = "INVALID_ARGUMENT"


class OutOfRange(LorryError):
    """An offset beyond what is there."""

    default_code = "OUT_OF_RANGE"


class NotFound(LorryError):
    """What the request names does not exist."""

    default_code = "NOT_FOUND"


class AlreadyExists(LorryError):
    """What the request would create exists."""

    default_code = "ALREADY_EXISTS"


class FailedPrecondition(LorryError):
    """The system is not in the state that the request needs; trying again alone does not help."""

    default_code = "FAILED_PRECONDITION"


class Aborted(LorryError):
    """Somebody else changed it first (a stale etag): read again, then retry."""

    default_code = "ABORTED"


class PermissionDenied(LorryError):
    """The caller may not do this."""

    default_code = "PERMISSION_DENIED"


class Unauthenticated(LorryError):
    """The server does not know who calls."""

    default_code = "UNAUTHENTICATED"


class ResourceExhausted(LorryError):
    """A queue, a budget or a disk is full; try later."""

    default_code = "RESOURCE_EXHAUSTED"


class Unavailable(LorryError):
    """No server answers, or it is away for now: retry."""

    default_code = "UNAVAILABLE"


class DeadlineExceeded(LorryError):
    """The call's time was up."""

    default_code = "DEADLINE_EXCEEDED"


class DataLoss(LorryError):
    """Bytes that do not match their digest."""

    default_code = "DATA_LOSS"


class Unimplemented(LorryError):
    """The server does not offer this."""

    default_code = "UNIMPLEMENTED"


class Internal(LorryError):
    """A bug, in the server or here."""

    default_code = "INTERNAL"


# The one table from codes to classes; a code that is not in it becomes a plain LorryError.
ERRORS_BY_CODE: dict[str, type[LorryError]] = {
    error.default_code: error for error in LorryError.__subclasses__()
}


def from_rpc(error: grpc.RpcError, server: str) -> LorryError:
    """Translates what grpc raised into the error to raise instead.

    Args:
        error: the call's failure, synchronous or asynchronous.
        server: where the call went, for the message.
    """
    code = error.code().name
    reason, metadata = _error_info(error)
    message = error.details() or code
    if reason is None and code == "UNAVAILABLE":
        message = f"No answer from {server}: {message}. Is a server running there?"
    elif reason is None and code == "UNIMPLEMENTED":
        message = (
            f"{server} does not offer this ({message}); a registry by itself only keeps adapters."
        )
    elif reason is None and code == "DEADLINE_EXCEEDED":
        message = f"No answer from {server} in time: {message}."
    return ERRORS_BY_CODE.get(code, LorryError)(message, code, reason, metadata)


def from_os(error: OSError) -> LorryError:
    """Translates what the local file system refused."""
    kinds: dict[int | None, type[LorryError]] = {
        errno.ENOENT: NotFound,
        errno.EACCES: PermissionDenied,
        errno.EPERM: PermissionDenied,
        errno.EROFS: PermissionDenied,
        errno.ENOSPC: ResourceExhausted,
        errno.EDQUOT: ResourceExhausted,
    }
    where = f"{error.filename}: " if error.filename else ""
    kind = kinds.get(error.errno, FailedPrecondition)
    return kind(f"{where}{error.strerror or error}.", reason="LOCAL_FILE")


def _error_info(error: grpc.RpcError) -> tuple[str | None, dict[str, str]]:
    """The ErrorInfo's reason and metadata; nothing where the error came without, or with a broken one."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(cast("grpc.Call", error))
    except (ValueError, DecodeError):
        return None, {}
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return None, {}
