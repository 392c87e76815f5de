"""Moves adapters up the tiers, beside the engine's thread: source → disk → host memory → slot.

Fetching (network, disk, parsing) runs on a few threads; slots are written by one, so that no two writers meet. What
happened comes back to the engine as an event; nothing here decides anything.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorry_server.engine.lora.factors import AdapterFactors, read_factors
from lorry_server.engine.lora.slots import LoraSlots
from lorry_server.engine.residency import SlotLoad


class AdapterSource(Protocol):
    """Where the files of a version come from."""

    def fetch(self, digest: str) -> Path:
        """Returns a local folder with the version's files, verified against the digest.

        Blocks; called from several threads at once. Raises LorryError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter is in host memory."""

    digest: str
    rank: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter is in its slot."""

    digest: str
    rank: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """An adapter came no further; `in_slot` says whether it had a slot reserved."""

    digest: str
    error: Exception
    in_slot: bool


LoaderEvent = Fetched | Loaded | LoadFailed


class HostCache:
    """Parsed adapters in host memory, least recently used first out, within a budget of bytes.

    A budget of 0 keeps none: on a CPU the slots are host memory already, and a second copy would gain nothing.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[str, AdapterFactors] = OrderedDict()

    def get(self, digest: str) -> AdapterFactors | None:
        with self._lock:
            factors = self._held.get(digest)
            if factors is not None:
                self._held.move_to_end(digest)
            return factors

    def put(self, digest: str, factors: AdapterFactors) -> None:
        with self._lock:
            self._held[digest] = factors
            self._held.move_to_end(digest)
            while sum(f.size_bytes for f in self._held.values()) > self.budget_bytes:
                self._held.popitem(last=False)

    def __contains__(self, digest: str) -> bool:
        with self._lock:
            return digest in self._held


class AdapterLoader:
    """`fetch` and `load` return at once; `post` receives what came of them, on a thread of the loader's."""

    def __init__(
        self,
        source: AdapterSource,
        slots: LoraSlots,
        linear_shapes: Mapping[str, tuple[int, int]],
        host_memory_bytes: int,
        post: Callable[[LoaderEvent], None],
    ) -> None:
        self.host = HostCache(host_memory_bytes)
        self._source = source
        self._slots = slots
        self._linear_shapes = linear_shapes
        self._post = post
        self._fetchers = ThreadPoolExecutor(4, thread_name_prefix="lorry-fetch")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lorry-slots")

    def fetch(self, digest: str) -> None:
        self._fetchers.submit(self._fetch, digest)

    def load(self, load: SlotLoad) -> None:
        self._writer.submit(self._load, load)

    def clear(self, slot: int) -> None:
        """Zeroes a slot that was given up; it is done before any later load into it."""
        self._writer.submit(self._slots.clear, slot)

    def stop(self) -> None:
        for executor in (self._fetchers, self._writer):
            executor.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, digest: str) -> None:
        started = time.monotonic()
        try:
            factors = self._read(digest)
        except Exception as error:
            self._post(LoadFailed(digest, error, in_slot=False))
        else:
            self._post(
                Fetched(digest, factors.rank, factors.size_bytes, time.monotonic() - started)
            )

    def _load(self, load: SlotLoad) -> None:
        started = time.monotonic()
        try:
            factors = self.host.get(load.digest) or self._read(load.digest)
            self._slots.clear(load.slot)
            self._slots.write(load.slot, factors.modules)
        except Exception as error:
            self._slots.clear(load.slot)
            self._post(LoadFailed(load.digest, error, in_slot=True))
        else:
            seconds = time.monotonic() - started
            self._post(Loaded(load.digest, factors.rank, factors.size_bytes, seconds))

    def _read(self, digest: str) -> AdapterFactors:
        folder = self._source.fetch(digest)
        factors = read_factors(folder, self._linear_shapes, self._slots.max_rank, self._slots.dtype)
        self.host.put(digest, factors)
        return factors
