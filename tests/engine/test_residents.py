"""What operators ask for: load, pin, unload. Every wish is answered, and none disturbs those who generate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorry_registry.errors import FailedPrecondition, LorryError, NotFound, ResourceExhausted
from lorry_server.engine.adapters.weights import AdapterWeights, LinearUpdate
from lorry_server.engine.host_cache import HostCache

from .rig import PATIENCE, Rig

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

PROMPT = [5, 6, 7, 8, 9]
MakeRig = Callable[..., Rig]


def reason(error: BaseException | None) -> str:
    assert isinstance(error, LorryError), error
    return error.reason


def test_a_load_says_what_there_is_now(make_rig: MakeRig, adapters: dict[str, Path]) -> None:
    with make_rig() as rig:
        info = rig.engine.load("b").result(PATIENCE)
        assert (info.digest, info.tier, info.rank, info.pinned) == ("b", "slot", 8, False)
        assert (info.in_flight, info.last_used) == (0, None)
        # 8 × (in + out) numbers of four bytes: q, k, v, o and the three of the MLP, twice.
        layer = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 2 * (64 + 128) + (128 + 64)
        assert info.size_bytes == 2 * layer * 8 * 4
        assert info.load_seconds > 0
        stats = rig.idle()
        assert stats.slots_used == 1
        assert [resident.digest for resident in stats.residents] == ["b"]
        assert stats.loads["slot"].count == stats.loads["host"].count == 1
        assert stats.loads["slot"].size_bytes == info.size_bytes
        before = time.time()
        rig.generate(PROMPT, "b")
        [used] = rig.idle().residents
        assert used.last_used is not None
        assert before - 1 < used.last_used < time.time() + 1


def test_a_load_of_what_is_there_is_answered_at_once(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.engine.load("a").result(PATIENCE)
        assert rig.engine.load("a", pin=True).result(PATIENCE).pinned
        assert rig.engine.load("a").result(PATIENCE).pinned, "a load does not unpin"
        assert rig.source.fetched.count("a") == 2, "once to look at it, once into the slot"


def test_a_pinned_adapter_is_never_evicted(make_rig: MakeRig) -> None:
    with make_rig(slots=2) as rig:
        rig.engine.load("a", pin=True).result(PATIENCE)
        for digest in "bcdbcd":
            assert len(rig.generate(PROMPT, digest)) == 8
        stats = rig.idle()
        assert {resident.digest for resident in stats.residents} == {"a", "d"}
        assert stats.evictions == 5
        assert [resident.pinned for resident in stats.residents if resident.digest == "a"] == [True]


def test_all_slots_pinned_is_an_error_that_names_the_way_out(make_rig: MakeRig) -> None:
    with make_rig(slots=1) as rig:
        rig.engine.load("a", pin=True).result(PATIENCE)
        rig.submit("refused", PROMPT, "b")
        rig.wait("refused")
        error = rig.error("refused")
        assert isinstance(error, ResourceExhausted)
        assert error.reason == "SLOTS_PINNED"
        assert "unpin" in error.message
        assert reason(rig.engine.load("b").exception(PATIENCE)) == "NO_FREE_SLOT"
        assert not rig.engine.pin("a", False).result(PATIENCE).pinned
        assert len(rig.generate(PROMPT, "b")) == 8


def test_what_is_not_there_can_be_neither_pinned_nor_unloaded(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        assert reason(rig.engine.pin("a", True).exception(PATIENCE)) == "NOT_RESIDENT"
        assert reason(rig.engine.unload("a").exception(PATIENCE)) == "NOT_RESIDENT"


def test_a_load_that_fails_says_why(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        assert isinstance(rig.engine.load("unknown").exception(PATIENCE), NotFound)
        assert rig.idle().slots_used == 0


def test_an_unload_empties_the_slot_and_zeroes_it(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        said = rig.generate(PROMPT, "a")
        rig.engine.pin("a", True).result(PATIENCE)
        assert reason(rig.engine.unload("a").exception(PATIENCE)) == "PINNED"
        rig.engine.pin("a", False).result(PATIENCE)
        rig.engine.unload("a").result(PATIENCE)
        stats = rig.idle()
        assert stats.slots_used == 0
        assert stats.residents == ()
        rig.engine.load("b").result(PATIENCE)  # the writer does one thing after the other
        for pool in rig.engine._runner.slots.linears.pools.values():
            assert not pool.a[pool.rows(0, 4)].any() or dict(pool.ranks).get(0) == 8
        assert rig.generate(PROMPT, "a") == said


def test_an_unload_waits_for_those_who_run_with_it(make_rig: MakeRig) -> None:
    """And who comes later waits until it is back."""
    with make_rig() as rig:
        rig.submit("running", PROMPT, "a", max_tokens=60)
        with rig.between_steps():
            unload = rig.engine.unload("a")
            again = rig.engine.unload("a")
            rig.submit("later", PROMPT, "a", max_tokens=4)
        unload.result(PATIENCE)
        again.result(PATIENCE)
        rig.wait("running", "later")
        assert len(rig.tokens("running")) == 60
        assert rig.error("later") is None
        assert rig.idle().loads["slot"].count == 2


def test_what_is_being_unloaded_cannot_be_pinned(make_rig: MakeRig) -> None:
    """Bug: the pin was granted, and the adapter went all the same."""
    with make_rig() as rig:
        rig.submit("running", PROMPT, "a", max_tokens=60)
        with rig.between_steps():
            unload, pin = rig.engine.unload("a"), rig.engine.pin("a", True)
        assert isinstance(pin.exception(PATIENCE), FailedPrecondition)
        unload.result(PATIENCE)
        rig.wait("running")


def test_a_load_and_a_request_for_the_only_slot(make_rig: MakeRig) -> None:
    """Bug: the request took the slot before the load was answered, and nobody ever answered it."""
    with make_rig(slots=1) as rig:
        for turn in range(5):
            wish = rig.engine.load("ab"[turn % 2])
            name = rig.submit(f"{turn}", PROMPT, "cd"[turn % 2], max_tokens=2)
            rig.wait(name)
            assert rig.error(name) is None
            assert isinstance(wish.exception(PATIENCE), ResourceExhausted | None)


def test_no_more_is_remembered_than_of_so_many_adapters(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: something was kept of every adapter that ever came, and looked through for every snapshot."""
    monkeypatch.setattr("lorry_server.engine.residents._REMEMBERED", 2)
    with make_rig(slots=1) as rig:
        first = rig.generate(PROMPT, "a")
        for digest in "bcd":
            rig.generate(PROMPT, digest)
        rig.idle()
        residents, scheduler = rig.engine._residents, rig.engine._scheduler
        for remembered in (residents._arrived, residents._effects, scheduler._fetched):
            assert set(remembered) == {"c", "d"}
        assert rig.generate(PROMPT, "a") == first


def test_a_caller_who_gives_up_does_not_take_the_engine_along(make_rig: MakeRig) -> None:
    """Bug: to answer a future that was cancelled raises, and that ended the engine. asyncio cancels what it
    wraps."""
    with make_rig() as rig:
        rig.source.gates["a"] = threading.Event()

        async def impatient() -> None:
            async with asyncio.timeout(0.2):
                await asyncio.wrap_future(rig.engine.load("a"))

        with pytest.raises(TimeoutError):
            asyncio.run(impatient())
        busy = threading.Event()
        rig.engine._inbox.put(lambda: busy.wait(PATIENCE) and None)
        futures = [rig.engine.load("b"), rig.engine.pin("b", True), rig.engine.unload("b")]
        assert all(future.cancel() for future in futures)
        busy.set()
        rig.source.gates["a"].set()
        assert rig.engine.load("a").result(PATIENCE).digest == "a"
        assert len(rig.generate(PROMPT, "a")) == 8
        assert rig.engine.failed is None


def test_the_engine_sleeps_while_an_adapter_is_fetched(make_rig: MakeRig) -> None:
    """Bug: while an operator's load was on its way the engine's thread span, and took a core from those who
    fetch."""
    with make_rig() as rig:
        rig.source.gates["a"] = threading.Event()
        wish = rig.engine.load("a")
        schedule, calls = rig.engine._scheduler.schedule, []

        def counted(now: float):
            calls.append(now)
            return schedule(now)

        rig.engine._scheduler.schedule = counted  # type: ignore[method-assign]
        time.sleep(0.5)
        assert len(calls) <= 50  # 25 by its own clock, thousands if it does not sleep
        rig.source.gates["a"].set()
        wish.result(PATIENCE)


# Host memory.


def factors(num_bytes: int) -> AdapterWeights:
    return AdapterWeights(
        {"layer": LinearUpdate(torch.zeros(1, num_bytes // 8), torch.zeros(1, num_bytes // 8))}
    )


def test_host_memory_keeps_to_its_budget_of_bytes() -> None:
    """Least recently used first out, and one that is larger than the budget is not kept."""
    cache = HostCache(1000)
    for digest in "ab":
        cache.put(digest, factors(400))
    assert cache.get("a") is not None
    cache.put("c", factors(400))
    assert [digest in cache for digest in "abc"] == [True, False, True]
    cache.put("huge", factors(2000))
    assert "huge" not in cache
    none = HostCache(0)
    none.put("a", factors(8))
    assert none.get("a") is None
