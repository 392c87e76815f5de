"""Moves adapters up the tiers, beside the engine's thread: source → disk → host memory → slot.

What is on this machine's disk is read on threads of its own, what has to come from elsewhere waits on others: a slow
network holds up nobody whose adapter is here. Compositions that take more than a sum are computed on one more. Slots
are written by one thread, so that no two writers meet. What happened comes back to the engine as an event; nothing here
decides anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError

from lorry_registry.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.compose import compose
from lorry_server.engine.adapters.read import read_weights
from lorry_server.engine.adapters.recipe import Method, Recipe
from lorry_server.engine.adapters.weights import AdapterWeights, VirtualTokens
from lorry_server.engine.adapters.write import write_lora
from lorry_server.engine.downloads import Downloads
from lorry_server.engine.effect import probe_of
from lorry_server.engine.host_cache import HostCache
from lorry_server.engine.loader_events import (
    Fetched,
    Loaded,
    LoaderEvent,
    LoadFailed,
    MergeEvent,
    MergeFailed,
    MergeReady,
)
from lorry_server.engine.lora.merged import fold, shadow_bytes
from lorry_server.engine.residency import SlotLoad
from lorry_server.engine.sequence import VirtualPlaces
from lorry_server.engine.slots import AdapterSlots

_log = logging.getLogger(__name__)

_READERS = 2
_DOWNLOADS = 8
_STOP_SECONDS = 2.0  # for downloads in flight: what hangs in the network is left behind


class AdapterSource(Protocol):
    """Where the files of a version come from. Called from several threads at once. Raises LorryError."""

    def recipe(self, digest: str) -> Recipe | None:
        """How a composition is made; None for a version. Quick."""
        ...

    def local(self, digest: str) -> Path | None:
        """The folder with the version's files where it is on this machine's disk; None where it is not. Quick."""
        ...

    def fetch(self, digest: str) -> Path:
        """A folder with the version's files, verified against the digest, brought from afar if need be. Blocks."""
        ...

    def store(self, digest: str, rank: int, write: Callable[[Path], None]) -> None:
        """Keeps what was computed of a composition, so that `local` finds it; `write` fills a folder."""
        ...

    def refetch(self, digest: str) -> Path:
        """As `fetch`, for a folder that could not be read: files that are not the version's are brought anew."""
        ...


_Arrived = Callable[[AdapterWeights, float], None]  # with the moment when it was begun
_Failed = Callable[[Exception], None]
_UNREADABLE = (InvalidArgument, SafetensorError, OSError)


@dataclass(frozen=True, slots=True)
class _Reading:
    """An adapter or a composition on its way into host memory."""

    digest: str
    recipe: Recipe | None  # of a composition
    started: float  # time.monotonic() seconds
    arrived: _Arrived
    failed: _Failed
    exact: bool = False  # in float32, whatever the engine computes in; for nobody else

    @property
    def is_costly(self) -> bool:
        """Whether it takes more than a sum, and what comes of it is worth keeping."""
        return self.recipe is not None and self.recipe.method is not Method.SUM

    @property
    def needed(self) -> list[str]:
        """The versions whose files it takes."""
        if self.recipe is None:
            return [self.digest]
        return [term.digest for term in self.recipe.terms]


class AdapterLoader:
    """`fetch` and `load` return at once; `post` receives what came of them, on a thread of the loader's."""

    def __init__(
        self,
        source: AdapterSource,
        slots: AdapterSlots,
        base: BaseView,
        post: Callable[[LoaderEvent | MergeEvent], None],
        *,
        host_memory_bytes: int,
        merge_memory_bytes: int,
    ) -> None:
        self.host = HostCache(host_memory_bytes)
        self._source = source
        self._slots = slots
        self._base = base
        self._post = post
        self._merge_memory_bytes = merge_memory_bytes
        self._downloads = Downloads(_DOWNLOADS)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="lorry-read")
        self._composer = ThreadPoolExecutor(1, thread_name_prefix="lorry-compose")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lorry-slots")

    def fetch(self, digest: str) -> None:
        def arrived(factors: AdapterWeights, started: float) -> None:
            seconds = time.monotonic() - started
            virtual = _places(factors.virtual)
            self._post(Fetched(digest, factors.rank, factors.size_bytes, seconds, virtual))

        def failed(error: Exception) -> None:
            self._post(LoadFailed(digest, error, in_slot=False))

        self._readers.submit(self._read, digest, arrived, failed)

    def load(self, load: SlotLoad) -> None:
        """What is no longer at hand is fetched again, by the way that every fetch takes: the writer never waits."""

        def arrived(factors: AdapterWeights, started: float) -> None:
            self._on_writer(self._write, load, factors, started)

        def failed(error: Exception) -> None:
            self._on_writer(self._give_up, load, error)

        self._readers.submit(self._read, load.digest, arrived, failed)

    def merge(self, digest: str) -> None:
        """Folds an adapter into copies of the weights; what comes of it is a MergeEvent."""

        def arrived(weights: AdapterWeights, started: float) -> None:
            with suppress(RuntimeError):  # the loader has stopped meanwhile
                self._composer.submit(self._fold, digest, weights, started)

        def failed(error: Exception) -> None:
            self._post(MergeFailed(digest, error))

        self._readers.submit(self._read, digest, arrived, failed)

    def export(self, digest: str, folder: Path, done: Future[None]) -> None:
        """Writes a composition as a LoRA folder. The future raises what is in the way."""

        def arrived(weights: AdapterWeights, started: float) -> None:
            with _reporting(done):
                write_lora(weights, folder)

        recipe = self._source.recipe(digest)
        reading = _Reading(
            digest, recipe, time.monotonic(), arrived, done.set_exception, exact=True
        )
        self._downloads.submit(lambda: self._download(reading))

    def clear(self, slot: int) -> None:
        """Zeroes a slot that was given up; it is done before any later load into it."""
        self._writer.submit(self._slots.clear, slot)

    def stop(self) -> None:
        """Ends in bounded time, whatever the source does."""
        self._downloads.stop(_STOP_SECONDS)
        for executor in (self._readers, self._composer, self._writer):
            executor.shutdown(wait=True, cancel_futures=True)

    # On the readers.

    def _read(self, digest: str, arrived: _Arrived, failed: _Failed) -> None:
        """Host memory first, then this machine's disk; the rest is for the downloads."""
        started = time.monotonic()
        try:
            reading = _Reading(digest, self._source.recipe(digest), started, arrived, failed)
            weights = self.host.get(digest)
            if weights is None and reading.is_costly:
                weights = self._computed(reading)
            parts = [] if weights is not None else self._at_hand(reading)
        except Exception as error:
            failed(error)
            return
        if weights is not None:
            arrived(weights, started)
        elif parts is None:
            self._downloads.submit(lambda: self._download(reading))
        else:
            self._put_together(reading, parts)

    def _computed(self, reading: _Reading) -> AdapterWeights | None:
        """A composition that was computed before, where it is on this machine's disk and can be read."""
        try:
            folder = self._source.local(reading.digest)
            if folder is None:
                return None
            weights = read_weights(folder, self._base, self._slots.dtype)
        except _UNREADABLE:
            return None
        self.host.put(reading.digest, weights)
        return weights

    def _at_hand(self, reading: _Reading) -> list[AdapterWeights] | None:
        """Everything that is needed, where all of it is on this machine's disk and can be read."""
        try:
            folders = [self._source.local(digest) for digest in reading.needed]
            if None in folders:
                return None
            return [self._parse(folder, reading) for folder in folders if folder is not None]
        except _UNREADABLE:
            return None  # the downloads see to what is wrong with it

    def _parse(self, folder: Path, reading: _Reading) -> AdapterWeights:
        # A sum is rounded once: its terms are read as they were published.
        dtype = self._slots.dtype if reading.recipe is None else torch.float32
        return read_weights(folder, self._base, dtype)

    # On the downloads.

    def _download(self, reading: _Reading) -> None:
        try:
            parts = [self._bring(digest, reading) for digest in reading.needed]
        except Exception as error:
            reading.failed(error)
        else:
            self._put_together(reading, parts)

    def _bring(self, digest: str, reading: _Reading) -> AdapterWeights:
        folder = self._source.fetch(digest)
        try:
            return self._parse(folder, reading)
        except _UNREADABLE as error:
            return self._mend(digest, reading, error)

    def _mend(self, digest: str, reading: _Reading, why: Exception) -> AdapterWeights:
        """Once more, with files whose digests hold. The caller of a generation has no part in what is wrong here."""
        _log.warning("Adapter %s could not be read, its files are checked: %s", digest, why)
        folder = self._source.refetch(digest)
        try:
            return self._parse(folder, reading)
        except (InvalidArgument, SafetensorError) as error:
            raise DataLoss(
                f"Adapter {digest} cannot be read, though its files are those that were published: {error}; "
                "publish it again.",
                reason="ADAPTER_UNREADABLE",
                digest=digest,
            ) from error

    # On either, or on the composer.

    def _put_together(self, reading: _Reading, parts: list[AdapterWeights]) -> None:
        if not reading.is_costly:
            self._finish(reading, parts)
        else:
            with suppress(RuntimeError):  # the loader has stopped meanwhile
                self._composer.submit(self._finish, reading, parts)

    def _finish(self, reading: _Reading, parts: list[AdapterWeights]) -> None:
        try:
            weights = parts[0]
            if reading.recipe is not None:
                slots = self._slots
                dtype = torch.float32 if reading.exact else slots.dtype
                weights = compose(reading.recipe, parts, slots.max_rank, dtype)
            if not reading.exact:
                self.host.put(reading.digest, weights)
                if reading.is_costly:
                    self._source.store(
                        reading.digest, weights.rank, lambda folder: write_lora(weights, folder)
                    )
        except Exception as error:
            reading.failed(error)
        else:
            reading.arrived(weights, reading.started)

    # On the composer.

    def _fold(self, digest: str, adapter: AdapterWeights, started: float) -> None:
        try:
            self._check_merge(digest, adapter)
            shadows = {
                path: fold(
                    update, self._base.weight(path), self._base.bias(path), self._slots.dtype
                )
                for path, update in adapter.linears.items()
            }
        except Exception as error:
            no_memory = isinstance(error, MemoryError) or "allocate" in str(error)  # torch's say so
            self._post(MergeFailed(digest, _no_memory(digest, error) if no_memory else error))
        else:
            self._post(MergeReady(digest, shadows, time.monotonic() - started))

    def _check_merge(self, digest: str, adapter: AdapterWeights) -> None:
        if not adapter.linears:
            raise FailedPrecondition(
                f"Adapter {digest} adds to no linear layer: there is nothing to merge. Ask for it without.",
                reason="NOTHING_TO_MERGE",
                digest=digest,
            )
        layers = self._base.entity.modules
        shapes = {layer.path: (layer.in_features, layer.out_features) for layer in layers}
        needed = shadow_bytes(adapter.linears, shapes, self._slots.dtype)
        if needed > self._merge_memory_bytes:
            raise ResourceExhausted(
                f"Merging adapter {digest} takes {needed} bytes, and merged weights may have "
                f"{self._merge_memory_bytes}: start the server with --merge-memory {needed}, or ask for the adapter "
                "without execution MERGED.",
                reason="MERGE_MEMORY",
                digest=digest,
                needed_bytes=needed,
                limit_bytes=self._merge_memory_bytes,
            )

    # On the writer.

    def _write(self, load: SlotLoad, factors: AdapterWeights, started: float) -> None:
        try:
            self._slots.clear(load.slot)
            self._slots.write(load.slot, factors)
            is_version = self._source.recipe(load.digest) is None
            probe = probe_of(factors, _places(factors.virtual), must_act=is_version)
        except Exception as error:
            self._give_up(load, error)
        else:
            seconds = time.monotonic() - started
            self._post(Loaded(load.digest, factors.rank, factors.size_bytes, seconds, probe))

    def _give_up(self, load: SlotLoad, error: Exception) -> None:
        self._slots.clear(load.slot)
        self._post(LoadFailed(load.digest, error, in_slot=True))

    def _on_writer(self, act: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loader has stopped meanwhile, and nobody waits any more
            self._writer.submit(act, *arguments)


@contextmanager
def _reporting(done: Future[None]) -> Iterator[None]:
    """Tells a future how the block ends."""
    try:
        yield
    except Exception as error:
        done.set_exception(error)
    else:
        done.set_result(None)


def _no_memory(digest: str, why: Exception) -> ResourceExhausted:
    return ResourceExhausted(
        f"Adapter {digest} was not merged, for the device has no room for the weights ({str(why)[:200]}); ask for it "
        "without execution MERGED.",
        reason="MERGE_MEMORY",
        digest=digest,
    )


def _places(tokens: VirtualTokens | None) -> VirtualPlaces:
    if tokens is None:
        return VirtualPlaces()
    return VirtualPlaces(tokens.count, injected=tokens.embeddings is None)
