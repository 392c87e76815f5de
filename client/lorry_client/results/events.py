"""What a watch tells."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from lorry_client import names
from lorry_client.results.catalogue import AliasTarget
from lorry_client.results.times import moment

if TYPE_CHECKING:
    from lorry.registry.v1 import watch_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the catalogue; `adapter` is `namespace/name`.

    Attributes:
        kind: `ALIAS_MOVED`, `VERSION_BLOCKED` and the like, as the contract calls it.
        version: None where it happened to no version.
        alias: None where it happened to no alias.
        targets: what the alias points at since.
    """

    position: int
    kind: str
    time: datetime | None
    principal: str
    adapter: str
    version: int | None
    digest: str | None
    alias: str | None
    targets: tuple[AliasTarget, ...]
    why: str

    @classmethod
    def read(cls, message: pb.Event) -> Event:
        return cls(
            position=message.position,
            kind=_kind(message.kind),
            time=moment(message, "event_time"),
            principal=message.principal,
            adapter=names.short(message.adapter),
            version=message.version or None,
            digest=message.digest or None,
            alias=message.alias or None,
            targets=tuple(AliasTarget.read(one) for one in message.targets),
            why=message.why,
        )


@dataclass(frozen=True, slots=True)
class Events:
    """What is new, and the token by which a watch goes on after it. Without events it is a bookmark."""

    resume_token: str
    position: int
    events: tuple[Event, ...]

    @classmethod
    def read(cls, message: pb.WatchResponse) -> Events:
        return cls(
            message.resume_token, message.position, tuple(Event.read(one) for one in message.events)
        )


def _kind(number: int) -> str:
    from lorry.registry.v1 import watch_service_pb2 as pb

    try:
        return pb.EventKind.Name(number).removeprefix("EVENT_KIND_")
    except ValueError:  # of a newer registry
        return str(number)
