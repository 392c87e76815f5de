"""The life of an engine: requests come, go and leave nothing behind, and everybody is answered."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lorry_registry.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    LorryError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from lorry_server.engine.request import FinishReason, RequestOutput
from lorry_server.engine.slots import AdapterSlots

from .bases import save_adapter
from .rig import PATIENCE, Rig

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

PROMPT = [5, 6, 7, 8, 9]
MakeRig = Callable[..., Rig]


def reason(error: Exception | None) -> str:
    assert isinstance(error, LorryError), error
    return error.reason


# Streams.


def test_tokens_stream_as_they_come(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.submit("s", PROMPT, "a", max_tokens=6, top_logprobs=2)
        rig.wait("s")
        outputs = rig.answers.of("s")
        assert [len(output.token_ids) for output in outputs] == [1] * 6
        assert [output.finish_reason for output in outputs] == [None] * 5 + [FinishReason.LENGTH]
        assert all(len(output.logprobs) == 1 for output in outputs)
        for output in outputs:
            best_token, best = output.logprobs[0].top[0]
            assert best_token == output.token_ids[0], "greedy takes the likeliest"
            assert output.logprobs[0].chosen == best
        stats = outputs[-1].stats
        assert stats is not None
        assert (stats.prompt_tokens, stats.completion_tokens) == (5, 6)
        assert 0 <= stats.queue_seconds <= stats.first_token_seconds <= stats.total_seconds


def test_a_stop_token_ends_a_stream(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        free = rig.generate(PROMPT, max_tokens=12)
        stopped = rig.generate(PROMPT, max_tokens=12, stop_token_ids=frozenset({free[4]}))
        assert stopped == free[: free.index(free[4]) + 1]


def test_a_seed_says_the_same_whoever_shares_the_batch(make_rig: MakeRig) -> None:
    """Alone, in a crowd with other adapters and seeds, and after preemption."""
    how: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 16}
    with make_rig() as rig:
        alone = [rig.generate(PROMPT, "b", seed=seed, **how) for seed in range(4)]
        assert len({tuple(tokens) for tokens in alone}) == 4
    with make_rig(kv_blocks=8, slots=2) as rig:
        names = [
            rig.submit(f"{adapter}{seed}", PROMPT, adapter, seed=seed, **how)
            for seed in range(4)
            for adapter in (None, "a", "b", "c")
        ]
        rig.wait(*names)
        assert rig.idle().preemptions > 0
        assert [rig.tokens(f"b{seed}") for seed in range(4)] == alone


# What leaves early leaves nothing behind.


@pytest.mark.parametrize("adapter", [None, "a"])
def test_a_cancelled_stream_gives_everything_back(make_rig: MakeRig, adapter: str | None) -> None:
    with make_rig() as rig:
        rig.submit("victim", PROMPT, adapter, max_tokens=100)
        with rig.between_steps():
            pass
        with rig.between_steps():
            rig.engine.cancel("victim")
        rig.idle()
        said = len(rig.tokens("victim"))
        assert not rig.answers.ended("victim"), "nobody waits for a last word"
        assert len(rig.generate(PROMPT, adapter)) == 8
        assert len(rig.tokens("victim")) == said < 100
        rig.engine.cancel("victim")
        rig.engine.cancel("never heard of")
        assert len(rig.generate(PROMPT, adapter)) == 8


def test_a_request_cancelled_before_it_ran(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.source.gates["a"] = threading.Event()
        rig.submit("victim", PROMPT, "a")
        rig.until(lambda stats: stats.waiting_for_adapter == 1)
        rig.engine.cancel("victim")
        rig.idle()
        rig.source.gates["a"].set()
        rig.until(lambda stats: stats.loads["host"].count == 1)
        assert rig.answers.of("victim") == []


@pytest.mark.parametrize("gated", [False, True])
def test_a_deadline_is_kept_while_running_and_while_waiting(make_rig: MakeRig, gated: bool) -> None:
    with make_rig() as rig:
        if gated:
            rig.source.gates["a"] = threading.Event()
        else:
            rig.engine.load("a").result(PATIENCE)
        rig.slow_down(0.03)  # so that no hundred tokens fit
        rig.submit("late", PROMPT, "a", max_tokens=100, deadline=time.monotonic() + 1.5)
        rig.submit("other", PROMPT, max_tokens=3)
        rig.wait("late", "other")
        assert isinstance(rig.error("late"), DeadlineExceeded)
        assert rig.error("other") is None
        assert bool(rig.tokens("late")) != gated
        rig.idle()


# What is refused at the door.


def test_a_full_queue_refuses_and_takes_again_later(make_rig: MakeRig) -> None:
    with make_rig(max_waiting=3) as rig:
        rig.source.gates["a"] = threading.Event()
        names = [rig.submit(str(i), PROMPT, "a") for i in range(3)]
        with pytest.raises(ResourceExhausted) as refusal:
            rig.submit("one too many", PROMPT)
        assert refusal.value.reason == "QUEUE_FULL"
        assert refusal.value.metadata == {"retry_after_seconds": "1", "max_waiting": "3"}
        rig.source.gates["a"].set()
        rig.wait(*names)
        assert all(rig.error(name) is None for name in names)
        assert len(rig.generate(PROMPT)) == 8
        assert "one too many" not in rig.answers.outputs


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "kv_blocks"),
    [([], 5, None), ([1] * 100, 29, None), ([1] * 30, 11, 5), ([1], 10**9, None)],
)
def test_what_can_never_fit_is_refused(
    make_rig: MakeRig, prompt: list[int], max_tokens: int, kv_blocks: int | None
) -> None:
    """The context is 128 tokens; five blocks of eight are 40."""
    with make_rig(kv_blocks=kv_blocks) as rig:
        with pytest.raises(InvalidArgument) as refusal:
            rig.submit("s", prompt, max_tokens=max_tokens)
        assert refusal.value.reason == "SEQUENCE_TOO_LONG"
        assert refusal.value.metadata["limit"] == ("40" if kv_blocks else "128")


def test_what_just_fits_is_served(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        assert len(rig.generate([1] * 100, max_tokens=28)) == 28
        assert len(rig.generate([1] * 127, max_tokens=1)) == 1
    with make_rig(kv_blocks=5) as rig:
        assert len(rig.generate([1] * 30, max_tokens=10)) == 10


def test_before_the_start_nothing_is_taken(make_rig: MakeRig) -> None:
    rig = make_rig()
    with pytest.raises(Unavailable) as refusal:
        rig.submit("early", PROMPT)
    assert refusal.value.reason == "ENGINE_STARTING"
    assert reason(rig.engine.load("a").exception(PATIENCE)) == "ENGINE_STARTING"
    rig.engine.stop(drain_seconds=0)


# Adapters that are slow, or do not come.


def test_a_load_does_not_stop_the_others(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        gate = rig.source.gates["b"] = threading.Event()
        rig.submit("slow", PROMPT, "b", max_tokens=4)
        rig.until(lambda stats: stats.waiting_for_adapter == 1)
        assert len(rig.generate(PROMPT, max_tokens=20)) == 20
        assert len(rig.generate(PROMPT, "a", max_tokens=20)) == 20
        assert rig.tokens("slow") == []
        gate.set()
        rig.wait("slow")
        assert len(rig.tokens("slow")) == 4


def test_an_adapter_that_cannot_be_fetched_fails_only_those_who_asked(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.submit("running", PROMPT, "a", max_tokens=60)
        rig.wait_for_tokens("running", 1)
        names = [rig.submit(f"lost{i}", PROMPT, "unknown") for i in range(3)]
        rig.wait(*names, "running")
        assert all(isinstance(rig.error(name), NotFound) for name in names)
        assert len(rig.tokens("running")) == 60
        rig.idle()
        # It is there now, and the next one who asks gets it.
        rig.source.folders["unknown"] = rig.source.folders["b"]
        assert rig.generate(PROMPT, "unknown") == rig.generate(PROMPT, "b")


def test_an_adapter_that_does_not_fit_is_refused_by_name(make_rig: MakeRig) -> None:
    with make_rig(max_rank=16) as rig:
        rig.submit("wide", PROMPT, "d")
        rig.submit("fits", PROMPT, "c")
        rig.wait("wide", "fits")
        assert reason(rig.error("wide")) == "RANK_ABOVE_CAP"
        assert rig.error("fits") is None
        assert reason(rig.engine.load("d").exception(PATIENCE)) == "RANK_ABOVE_CAP"
        assert rig.idle().slots_used == 1


def test_an_adapter_of_another_base_is_refused_by_name(
    make_rig: MakeRig, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    foreign = save_adapter(
        base_folder("gpt2"), tmp_path, seed=0, r=4, target_modules=["attn.c_attn"]
    )
    with make_rig() as rig:
        rig.source.folders["foreign"] = foreign
        rig.submit("s", PROMPT, "foreign")
        rig.wait("s")
        assert reason(rig.error("s")) == "ADAPTER_BASE_MISMATCH"
        assert "transformer.h.0.attn.c_attn" in str(rig.error("s"))


def test_a_load_that_fails_half_way_gives_its_slot_back_empty(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk's copy was good when it was looked at; something happens on the way into the slot."""
    write, faults = AdapterSlots.write, [MemoryError("no memory for factors")]

    def broken(self: AdapterSlots, slot: int, modules: Any) -> None:
        write(self, slot, modules)
        if "b" in rig.source.fetched and faults:
            raise faults.pop()

    monkeypatch.setattr(AdapterSlots, "write", broken)
    with make_rig(slots=1) as rig:
        rig.generate(PROMPT, "a")
        rig.submit("unlucky", PROMPT, "b")
        rig.submit("base", PROMPT)
        rig.wait("unlucky", "base")
        assert isinstance(rig.error("unlucky"), MemoryError)
        assert rig.error("base") is None
        assert rig.idle().slots_used == 0
        assert all(pool.ranks == () for pool in rig.engine._runner.slots.linears.pools.values())
        assert len(rig.generate(PROMPT, "b")) == 8


# The end.


def test_a_drain_lets_streams_finish(make_rig: MakeRig) -> None:
    with make_rig(max_sequences=2) as rig:
        names = [rig.submit(str(i), PROMPT, "a", max_tokens=40) for i in range(4)]
        rig.wait_for_tokens("0", 1)
        stopping = threading.Thread(target=rig.engine.stop, kwargs={"drain_seconds": PATIENCE})
        stopping.start()
        refusal = None
        while refusal is None:
            try:
                rig.submit(f"too late {time.monotonic()}", PROMPT, max_tokens=1)
            except Unavailable as error:
                refusal = error
        assert refusal.reason == "DRAINING"
        assert reason(rig.engine.load("b").exception(PATIENCE)) == "DRAINING"
        stopping.join(PATIENCE)
        assert not stopping.is_alive()
        assert [len(rig.tokens(name)) for name in names] == [40] * 4
        assert rig.engine.failed is None


def test_a_drain_ends_when_its_time_is_up(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.source.gates["a"] = threading.Event()
        rig.submit("waits", PROMPT, "a")
        rig.until(lambda stats: stats.waiting == 1)
        threading.Timer(0.5, rig.source.gates["a"].set).start()  # the loader ends what it began
        rig.engine.stop(drain_seconds=0.2)
        assert reason(rig.error("waits")) == "DRAINING"


def test_a_stop_without_a_drain_answers_everybody(make_rig: MakeRig) -> None:
    with make_rig(max_sequences=2) as rig:
        names = [rig.submit(str(i), PROMPT, max_tokens=120) for i in range(6)]
        rig.wait_for_tokens("0", 1)
        wish = rig.engine.load("a")
        rig.engine.stop(drain_seconds=0)
        assert all(reason(rig.error(name)) == "DRAINING" for name in names)
        assert wish.done()
        stats = rig.engine.stats()
        assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
        with pytest.raises(Unavailable):
            rig.submit("too late", PROMPT)
        rig.engine.stop(drain_seconds=0)


# Failures.


def break_runner(rig: Rig, error: BaseException, after: int = 0) -> None:
    """Makes the forward pass raise once."""
    run, calls = rig.engine._runner.run, iter(range(1000))

    def broken(chunks: Any) -> Any:
        if next(calls) == after:
            raise error
        return run(chunks)

    rig.engine._runner.run = broken  # type: ignore[method-assign]


def test_a_step_that_fails_answers_everybody_and_the_engine_stays_down(make_rig: MakeRig) -> None:
    with make_rig(max_sequences=2) as rig:
        fault = RuntimeError("CUDA error: an illegal memory access was encountered")
        rig.source.gates["b"] = threading.Event()
        wish = rig.engine.load("b")
        break_runner(rig, fault, after=5)
        names = [
            rig.submit(str(i), PROMPT, adapter, max_tokens=30) for i, adapter in enumerate("aabc")
        ]
        rig.wait(*names)
        for name in names:
            error = rig.error(name)
            assert isinstance(error, Internal)
            assert error.reason == "ENGINE_FAILED"
            assert "illegal memory access" in error.message
        assert rig.engine.failed is fault
        assert reason(wish.exception(PATIENCE)) == "ENGINE_FAILED"
        with pytest.raises(Internal):
            rig.submit("afterwards", PROMPT)
        assert reason(rig.engine.load("a").exception(PATIENCE)) == "ENGINE_FAILED"
        rig.idle()


def test_messages_that_fail_do_not_keep_others_from_an_answer(make_rig: MakeRig) -> None:
    """Bug: one message that could not be handled ended the engine, a second one its last duty."""

    def bad() -> None:
        raise KeyError("a book that does not agree")

    with make_rig() as rig:
        rig.submit("running", PROMPT, max_tokens=100)
        with rig.between_steps():
            rig.engine._inbox.put(bad)
            rig.engine._inbox.put(bad)
            rig.submit("queued", PROMPT)
        rig.wait("running", "queued")
        assert reason(rig.error("running")) == reason(rig.error("queued")) == "ENGINE_FAILED"


class FlakySink:
    """Raises the first `times` times that it is given something."""

    def __init__(self, sink: Callable[[Items[RequestOutput]], None], times: int) -> None:
        self.sink = sink
        self.left = times

    def __call__(self, outputs: Items[RequestOutput]) -> None:
        if self.left:
            self.left -= 1
            raise RuntimeError("the event loop is closed")
        self.sink(outputs)


def test_a_sink_that_fails_fails_the_engine_and_loses_no_answer(make_rig: MakeRig) -> None:
    """Bug: what the sink had not taken was lost, and whose last output was among it waited for ever."""
    with make_rig() as rig:
        rig.engine._sink = FlakySink(rig.answers, times=1)
        rig.submit("short", PROMPT, max_tokens=1)
        rig.wait("short")
        assert rig.last("short").finish_reason is FinishReason.LENGTH
        assert rig.tokens("short") != []
        rig.engine._thread.join(PATIENCE)
        assert isinstance(rig.engine.failed, RuntimeError)
        with pytest.raises(Internal):
            rig.submit("afterwards", PROMPT)


@pytest.mark.filterwarnings("error")  # also for an exception that nobody catches on a thread
def test_a_sink_that_never_works_again_does_not_hang_the_stop(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.engine._sink = FlakySink(rig.answers, times=1000)
        rig.submit("s", PROMPT, max_tokens=100)
        rig.engine._thread.join(PATIENCE)
        assert not rig.engine._thread.is_alive()
        assert isinstance(rig.engine.failed, RuntimeError)
        rig.engine.stop(drain_seconds=PATIENCE)


# Under load.


def send_at_random(rig: Rig, names: list[str], cancelled: set[str], seed: str) -> None:
    """A client that asks for anything, gives up now and then, and sometimes has little time."""
    rng = random.Random(seed)
    for i in range(6):
        act = rng.random()
        name = rig.submit(
            f"{seed}/{i}",
            [rng.randrange(160) for _ in range(rng.randint(1, 40))],
            rng.choice([None, *"abcd", "unknown"]),
            max_tokens=rng.randint(1, 20),
            temperature=rng.choice([0.0, 0.8]),
            deadline=time.monotonic() + 0.05 if act < 0.1 else None,
        )
        names.append(name)
        if act > 0.85:
            cancelled.add(name)
            rig.engine.cancel(name)


def test_ten_rounds_under_load_leave_nothing(make_rig: MakeRig) -> None:
    """Random requests, cancellations, deadlines, loads, pins and unloads from several threads; after each round
    the engine is as empty as before the first, and still says what it said."""
    rng = random.Random(0)
    with make_rig(slots=2, kv_blocks=24, max_batched_tokens=16, max_overtakes=4) as rig:
        right = {adapter: rig.generate(PROMPT, adapter) for adapter in (None, *"abcd")}
        for turn in range(10):
            names: list[str] = []
            cancelled: set[str] = set()
            client = partial(send_at_random, rig, names, cancelled)
            threads = [
                threading.Thread(target=client, args=(f"{turn}/{number}",)) for number in range(4)
            ]
            for thread in threads:
                thread.start()
            wishes: list[Any] = [
                rig.engine.load(rng.choice("abcd"), pin=rng.random() < 0.3),
                rig.engine.pin(rng.choice("abcd"), False),
                rig.engine.unload(rng.choice("abcd")),
            ]
            for thread in threads:
                thread.join()
            rig.wait(*(name for name in names if name not in cancelled))
            for wish in wishes:
                assert isinstance(wish.exception(PATIENCE), LorryError | None)
            for digest in "abcd":
                rig.engine.pin(digest, False).exception(PATIENCE)
            stats = rig.idle()
            assert stats.slots_used <= 2
            rig.engine._memory.check_integrity([])
            rig.engine._residency.check_integrity()
            adapter = rng.choice([None, *"abcd"])
            assert rig.generate(PROMPT, adapter) == right[adapter]
        errors = {type(rig.error(name)) for name in rig.answers.outputs}
        assert errors <= {type(None), NotFound, DeadlineExceeded, ResourceExhausted}
