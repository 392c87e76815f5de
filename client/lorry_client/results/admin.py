"""What operators see."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from lorry_client.results.times import moment, seconds

if TYPE_CHECKING:
    from lorry.admin.v1 import admin_service_pb2 as pb

Tier = Literal["unknown", "disk", "host", "slot"]

MergeCause = Literal["unknown", "operator", "request", "auto"]

# By the number of pb.MergeCause.
_CAUSES: dict[int, MergeCause] = {1: "operator", 2: "request", 3: "auto"}

# By the number of pb.Tier.
_TIERS: dict[int, Tier] = {1: "disk", 2: "host", 3: "slot"}


@dataclass(frozen=True, slots=True)
class Resident:
    """An adapter that the server holds, and the fastest tier that holds it."""

    digest: str
    references: tuple[str, ...]
    tier: Tier
    rank: int
    size_bytes: int
    pinned: bool
    requests_in_flight: int
    load_seconds: float
    last_used_time: datetime | None
    logit_change: float | None  # the largest after a short prompt; None where not measured yet
    merged: bool = False

    @classmethod
    def read(cls, message: pb.Resident) -> Resident:
        return cls(
            digest=message.digest,
            references=tuple(message.references),
            tier=_TIERS.get(message.tier, "unknown"),
            rank=message.rank,
            size_bytes=message.size_bytes,
            pinned=message.pinned,
            requests_in_flight=message.requests_in_flight,
            load_seconds=seconds(message.load_duration),
            last_used_time=moment(message, "last_used_time"),
            logit_change=message.logit_change if message.HasField("logit_change") else None,
            merged=message.merged,
        )


@dataclass(frozen=True, slots=True)
class Merge:
    """An adapter that is merged, or about to be (`active` is false then)."""

    digest: str
    references: tuple[str, ...]
    cause: MergeCause
    active: bool
    size_bytes: int
    merge_seconds: float

    @classmethod
    def read(cls, message: pb.Merge) -> Merge:
        return cls(
            digest=message.digest,
            references=tuple(message.references),
            cause=_CAUSES.get(message.cause, "unknown"),
            active=message.active,
            size_bytes=message.size_bytes,
            merge_seconds=seconds(message.merge_duration),
        )


@dataclass(frozen=True, slots=True)
class RegistryLink:
    """How a server follows its registry; while it is not connected it serves what it knows.

    Attributes:
        address: `HOST:PORT`, or `here`.
        silence_seconds: how long ago the registry was heard last.
        position: up to which event the server knows what happened.
    """

    address: str
    connected: bool
    silence_seconds: float
    position: int

    @classmethod
    def read(cls, message: pb.RegistryLink) -> RegistryLink:
        return cls(message.address, message.connected, seconds(message.silence), message.position)


@dataclass(frozen=True, slots=True)
class Status:
    """What a server runs and how busy it is."""

    version: str
    base: str
    base_fingerprint: str
    device: str
    context_length: int
    queued_requests: int
    running_requests: int
    kv_blocks_used: int
    kv_blocks_total: int
    slots_used: int
    slots_total: int
    max_rank: int
    start_time: datetime | None
    registry: RegistryLink | None = None  # an older server does not say
    merge: Merge | None = None

    @classmethod
    def read(cls, message: pb.Status) -> Status:
        return cls(
            version=message.version,
            base=message.base,
            base_fingerprint=message.base_fingerprint,
            device=message.device,
            context_length=message.context_length,
            queued_requests=message.queued_requests,
            running_requests=message.running_requests,
            kv_blocks_used=message.kv_blocks_used,
            kv_blocks_total=message.kv_blocks_total,
            slots_used=message.slots_used,
            slots_total=message.slots_total,
            max_rank=message.max_rank,
            start_time=moment(message, "start_time"),
            registry=RegistryLink.read(message.registry) if message.HasField("registry") else None,
            merge=Merge.read(message.merge) if message.HasField("merge") else None,
        )
