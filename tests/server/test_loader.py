"""The loader's threads: nobody waits for another's slow source, and files that cannot be read are seen to."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorry_registry.errors import DataLoss, InvalidArgument, Unavailable
from lorry_server.engine import loader as module
from lorry_server.engine.adapters.recipe import Method, Recipe, Term
from lorry_server.engine.loader import AdapterLoader
from lorry_server.engine.loader_events import Fetched, Loaded, LoadFailed
from lorry_server.engine.residency import SlotLoad


class Source:
    """Digests in `here` are on disk; each other one waits for `gate`. Digests in `broken` cannot be parsed."""

    def __init__(self) -> None:
        self.here: set[str] = set()
        self.broken: set[str] = set()
        self.mended_by_refetch = True
        self.gate = threading.Event()
        self.downloads: list[str] = []
        self.recipes: dict[str, Recipe] = {}
        self.stored: list[str] = []

    def recipe(self, digest: str) -> Recipe | None:
        return self.recipes.get(digest)

    def store(self, digest: str, rank: int, write) -> None:
        self.stored.append(digest)

    def local(self, digest: str) -> Path | None:
        return Path(digest) if digest in self.here else None

    def fetch(self, digest: str) -> Path:
        if digest in self.here:
            return Path(digest)
        self.downloads.append(digest)
        self.gate.wait(30)
        if digest == "away":
            raise Unavailable("away", reason="REGISTRY_UNAVAILABLE")
        return Path(digest)

    def refetch(self, digest: str) -> Path:
        if self.mended_by_refetch:
            self.broken.discard(digest)
        return Path(digest)


class Slots:
    max_rank = 8
    dtype = None

    def __init__(self) -> None:
        self.written: dict[int, object] = {}

    def clear(self, slot: int) -> None:
        self.written.pop(slot, None)

    def write(self, slot: int, weights: SimpleNamespace) -> None:
        self.written[slot] = weights.name


def weights(rank: int, size_bytes: int, name: str) -> SimpleNamespace:
    return SimpleNamespace(
        rank=rank,
        size_bytes=size_bytes,
        name=name,
        virtual=None,
        embeddings={},
        allow_no_effect=False,
    )


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def events():
    return queue.Queue()


@pytest.fixture
def slots():
    return Slots()


@pytest.fixture
def loader(source, slots, events, monkeypatch):
    def read(folder, *_):
        if str(folder) in source.broken:
            raise InvalidArgument("not JSON", reason="CONFIG_INVALID")
        return weights(4, 8, str(folder))

    monkeypatch.setattr(module, "read_weights", read)
    made = AdapterLoader(source, slots, None, events.put, host_memory_bytes=0, merge_memory_bytes=0)
    yield made
    source.gate.set()
    made.stop()


def test_adapters_on_disk_pass_by_all_downloads(loader, source, slots, events):
    """Four slow downloads used to take all threads, and adapters on the local disk waited behind them."""
    source.here.add("here")
    for n in range(20):
        loader.fetch(f"far-{n}")
    loader.fetch("here")
    assert isinstance(event := events.get(timeout=2), Fetched)
    assert event.digest == "here"
    loader.load(SlotLoad("here", 0, None))
    assert isinstance(events.get(timeout=2), Loaded)
    assert slots.written == {0: "here"}


def test_what_is_gone_when_its_slot_comes_is_fetched_beside_the_writer(
    loader, source, slots, events
):
    """The one thread that writes slots used to download what had vanished, and every other load waited for it."""
    source.here.add("here")
    loader.load(SlotLoad("gone", 0, None))
    loader.load(SlotLoad("here", 1, None))
    assert events.get(timeout=2).digest == "here"
    source.gate.set()
    assert isinstance(event := events.get(timeout=2), Loaded)
    assert event.digest == "gone"
    assert slots.written == {0: "gone", 1: "here"}


def test_a_composition_waits_for_its_own_terms_alone(loader, source, slots, events, monkeypatch):
    """With all terms on disk it passes by all downloads; else it comes once the last term has."""
    monkeypatch.setattr(
        module,
        "compose",
        lambda _, parts, *__: weights(8, 16, "+".join(part.name for part in parts)),
    )
    source.here |= {"a", "b"}
    for n in range(20):
        loader.fetch(f"far-{n}")
    local, mixed = (
        Recipe((Term("a", 0.7), Term(other, 0.3)), method)
        for other, method in (("b", Method.SVD), ("far", Method.SUM))
    )
    source.recipes = {recipe.digest: recipe for recipe in (local, mixed)}
    loader.load(SlotLoad(mixed.digest, 0, None))
    loader.load(SlotLoad(local.digest, 1, None))
    assert events.get(timeout=2).digest == local.digest
    assert slots.written == {1: "a+b"}
    assert source.stored == [local.digest], "a sum is quicker made than read"
    source.gate.set()
    while not slots.written.get(0):
        events.get(timeout=2)
    assert slots.written == {0: "a+far", 1: "a+b"}


def test_a_load_that_fails_leaves_an_empty_slot(loader, source, slots, events):
    source.gate.set()
    loader.load(SlotLoad("away", 0, None))
    event = events.get(timeout=2)
    assert isinstance(event, LoadFailed)
    assert event.in_slot
    assert isinstance(event.error, Unavailable)
    assert slots.written == {}


def test_an_adapter_that_cannot_be_looked_at_is_a_load_that_failed(
    loader, source, slots, events, monkeypatch
):
    """Bug: what went wrong after the slot was written was told nobody, and its requests waited for ever."""

    def fails(*_args, **_options):
        raise ValueError("no such row")

    monkeypatch.setattr(module, "probe_of", fails)
    source.here.add("a")
    loader.load(SlotLoad("a", 1, None))
    event = events.get(timeout=30)
    assert isinstance(event, LoadFailed)
    assert event.in_slot
    assert 1 not in slots.written


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_folder_that_cannot_be_read_is_brought_anew(loader, source, events, on_disk):
    """A damaged folder used to be refused for ever, as the caller's invalid argument."""
    source.gate.set()
    source.broken.add("a")
    if on_disk:
        source.here.add("a")
    loader.fetch("a")
    assert isinstance(events.get(timeout=2), Fetched)


def test_what_stays_unreadable_is_data_loss(loader, source, events):
    """INVALID_ARGUMENT would blame the caller of a generation for bytes on our disk."""
    source.here.add("a")
    source.broken.add("a")
    source.mended_by_refetch = False
    loader.fetch("a")
    error = events.get(timeout=2).error
    assert isinstance(error, DataLoss)
    assert error.reason == "ADAPTER_UNREADABLE"


def test_a_source_that_hangs_does_not_hold_up_the_end(loader, source, monkeypatch):
    """SIGTERM used to wait up to ten minutes for a download that hung."""
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.2)
    for n in range(20):
        loader.fetch(f"far-{n}")
    while not source.downloads:
        time.sleep(0.01)
    started = time.monotonic()
    loader.stop()
    assert time.monotonic() - started < 2
    downloads = [t for t in threading.enumerate() if t.name.startswith("lorry-fetch")]
    assert all(thread.daemon for thread in downloads)
