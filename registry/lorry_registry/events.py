"""What happens in the catalogue, as plain values, and the tokens by which a watcher goes on where it was."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from lorry_registry.entities import AdapterKey, AliasTarget
from lorry_registry.errors import InvalidArgument, OutOfRange

EVENTS_KEPT = 100_000
"""How many of the newest events can be gone back to."""


class EventKind(StrEnum):
    """What happened; the names are the contract's."""

    ADAPTER_CREATED = "ADAPTER_CREATED"
    ADAPTER_UPDATED = "ADAPTER_UPDATED"
    ADAPTER_DELETED = "ADAPTER_DELETED"
    ADAPTER_UNDELETED = "ADAPTER_UNDELETED"
    VERSION_CREATED = "VERSION_CREATED"
    VERSION_UPDATED = "VERSION_UPDATED"
    VERSION_DELETED = "VERSION_DELETED"
    VERSION_UNDELETED = "VERSION_UNDELETED"
    VERSION_DEPRECATED = "VERSION_DEPRECATED"
    VERSION_UNDEPRECATED = "VERSION_UNDEPRECATED"
    VERSION_BLOCKED = "VERSION_BLOCKED"
    VERSION_UNBLOCKED = "VERSION_UNBLOCKED"
    ALIAS_MOVED = "ALIAS_MOVED"
    ALIAS_DELETED = "ALIAS_DELETED"


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one adapter, its versions or its aliases."""

    position: int  # 1, 2, 3 … in the order in which the changes were committed
    kind: EventKind
    time: datetime
    principal: str
    key: AdapterKey
    version: int = 0  # 0: of no version
    digest: str = ""
    alias: str = ""
    targets: tuple[AliasTarget, ...] = ()  # what the alias points at since
    why: str = ""


@dataclass(frozen=True, slots=True)
class EventLog:
    """How far a log of events goes, and which one it is."""

    log_id: str  # a database that was made anew, or restored elsewhere, has another
    position: int  # of the newest event; 0 before the first
    dropped: int  # the newest position that is no longer kept


def encode_resume_token(log_id: str, position: int) -> str:
    return base64.urlsafe_b64encode(f"{log_id}:{position}".encode()).decode().rstrip("=")


def decode_resume_token(token: str, log: EventLog) -> int:
    """The position after which a watcher goes on.

    Raises:
        InvalidArgument: `RESUME_TOKEN_INVALID`, it is no token.
        OutOfRange: `RESUME_TOKEN_EXPIRED`, what came after it is no longer kept, or it belongs to another log.
    """
    try:
        padded = token + "=" * (-len(token) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        log_id, _, written = text.partition(":")
        if not (written.isdecimal() and len(written) < 19):
            raise ValueError(written)
    except (binascii.Error, ValueError):
        raise InvalidArgument(
            "the resume_token is not one that a registry gave: send the one of the last message, or none",
            reason="RESUME_TOKEN_INVALID",
        ) from None
    position = int(written)
    if log_id != log.log_id or not log.dropped <= position <= log.position:
        raise token_expired(position, log)
    return position


def token_expired(position: int, log: EventLog) -> OutOfRange:
    return OutOfRange(
        f"the resume_token stands at event {position}, and the events that are kept go from {log.dropped + 1} to "
        f"{log.position}: read anew what matters to you, then watch without a token",
        reason="RESUME_TOKEN_EXPIRED",
        position=position,
        oldest=log.dropped + 1,
        newest=log.position,
    )
