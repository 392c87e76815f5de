"""Snapshots of an engine, for operators and metrics: plain numbers, taken on the engine's thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Tier = Literal["disk", "host", "slot"]
MergeCause = Literal["operator", "request", "auto"]


@dataclass(frozen=True, slots=True)
class ResidentInfo:
    """An adapter that the engine holds or is bringing in."""

    digest: str
    tier: Tier  # the fastest one that holds it
    rank: int
    size_bytes: int  # in that tier
    pinned: bool
    in_flight: int  # requests that run with it or wait for it
    load_seconds: float  # of its last load into a slot; 0 before the first
    last_used: float | None  # seconds since the epoch; None before the first use
    logit_change: float | None = (
        None  # the largest after a short prompt; None where not measured yet
    )
    merged: bool = False  # folded into the weights beside, or about to be


@dataclass(frozen=True, slots=True)
class MergeInfo:
    """An adapter that is merged, or about to be."""

    digest: str
    cause: MergeCause
    active: bool  # False while its shadows are being made
    size_bytes: int  # of the shadows; 0 before
    seconds: float  # that it took; 0 before


@dataclass(frozen=True, slots=True)
class LoadTotals:
    """Loads into one tier since the start."""

    count: int = 0
    seconds: float = 0.0
    size_bytes: int = 0

    def plus(self, seconds: float, size_bytes: int) -> LoadTotals:
        return LoadTotals(self.count + 1, self.seconds + seconds, self.size_bytes + size_bytes)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine between two steps. Totals count from the start."""

    waiting: int = 0
    waiting_for_adapter: int = 0  # of those, how many wait for a slot or a load
    running: int = 0
    kv_blocks_used: int = 0  # held by requests; blocks kept only for their prefix do not count
    kv_blocks_total: int = 0
    kv_block_size: int = 0  # tokens
    slots_used: int = 0
    slots_total: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    evictions: int = 0  # adapters that lost their slot to another
    loads: Mapping[Tier, LoadTotals] = field(default_factory=lambda: MappingProxyType({}))
    residents: tuple[ResidentInfo, ...] = ()
    merge: MergeInfo | None = None
    merges: int = 0  # adapters that were merged
