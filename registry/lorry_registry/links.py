"""Links: what a store signs, so that bytes go between it and a client without passing through the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from lorry_registry.errors import FailedPrecondition

LINK_SECONDS = 900
"""How long a link may be begun to be used; what is under way then goes on."""


@dataclass(frozen=True, slots=True)
class Link:
    """A URL that serves whoever has it until `expire_time`. `headers` are sent along, as they are."""

    url: str
    expire_time: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartLink:
    """Where the next `part_bytes` of an upload are to be put."""

    link: Link
    part_bytes: int


def no_links(why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{why}: send and read the bytes through the registry (WriteBlob, ReadBlob; without --direct)",
        reason="LINKS_UNSUPPORTED",
    )
