"""What the loader tells the engine: how far an adapter has come, or why it came no further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorry_server.engine.effect import Probe
from lorry_server.engine.lora.merged import Shadow
from lorry_server.engine.sequence import VirtualPlaces


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter is in host memory."""

    digest: str
    rank: int
    size_bytes: int
    seconds: float
    virtual: VirtualPlaces


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter is in its slot."""

    digest: str
    rank: int
    size_bytes: int
    seconds: float
    probe: Probe


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """An adapter came no further; `in_slot` says whether it had a slot reserved."""

    digest: str
    error: Exception
    in_slot: bool


@dataclass(frozen=True, slots=True)
class MergeReady:
    """An adapter is folded into copies of the weights."""

    digest: str
    shadows: Mapping[str, Shadow]
    seconds: float


@dataclass(frozen=True, slots=True)
class MergeFailed:
    """An adapter could not be folded."""

    digest: str
    error: Exception


LoaderEvent = Fetched | Loaded | LoadFailed
MergeEvent = MergeReady | MergeFailed
