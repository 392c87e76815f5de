"""Merged mode: one adapter folded into copies of the weights, everybody else as before, and the base untouched."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorry_bases.load import load_base
from lorry_registry.errors import (
    Aborted,
    FailedPrecondition,
    LorryError,
    NotFound,
    ResourceExhausted,
)
from lorry_server.engine.adapters.recipe import Recipe, Term
from lorry_server.engine.merging import Situation, decide

from .bases import save_adapter
from .rig import PATIENCE, Rig
from .test_against_peft import BASES, NEW_TOKENS, Reference, prompts, recipes

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

PROMPT = [5, 6, 7, 8, 9]
MakeRig = Callable[..., Rig]


def reason(error: BaseException | None) -> str:
    assert isinstance(error, LorryError), error
    return error.reason


def fingerprint(model: torch.nn.Module) -> dict[str, tuple[int, bytes]]:
    """Where every weight of a base lies, and its bytes; packed ones with their scales."""
    found: dict[str, tuple[int, bytes]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        parts = {name: tensor}
        state = getattr(tensor, "quant_state", None)
        if state is not None:
            parts |= {f"{name} scales": state.absmax, f"{name} code": state.code}
        for part, data in parts.items():
            raw = data.detach().contiguous().view(torch.uint8).numpy().tobytes()
            found[part] = (data.data_ptr(), raw)
    return found


# What is decided.


@pytest.mark.parametrize(
    ("now", "target", "cause"),
    [
        ({}, None, None),
        ({"ordered": "a"}, "a", "operator"),
        ({"ordered": "a", "current": "b", "held": True}, "a", "operator"),
        ({"ordered": "a", "wish": "b"}, "a", "operator"),
        ({"wish": "a"}, "a", "request"),
        ({"wish": "a", "current": "b"}, "a", "request"),
        ({"wish": "a", "current": "b", "held": True}, "b", "request"),
        ({"wish": "a", "starved": True}, "a", "request"),
        ({"current": "a"}, "a", "request"),
        ({"current": "a", "held": True, "others_run": True}, "a", "request"),
        ({"current": "a", "others_run": True}, None, None),
        ({"current": "a", "starved": True}, None, None),
        ({"current": "a", "ordered": "a", "starved": True}, "a", "operator"),
    ],
)
def test_who_is_merged(now: dict[str, Any], target: str | None, cause: str | None) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("current", "ordered", "wish"))
    nothing |= dict.fromkeys(("held", "starved", "others_run"), False)
    decided = decide(Situation(**{**nothing, **now}))
    assert decided[0] == target
    assert cause in (None, decided[1])


# What is said.


@pytest.mark.parametrize("base_name", ["llama", "qwen2", "gpt2"])
def test_a_mixed_batch_says_what_peft_says_whoever_is_merged(
    base_name: str, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """All adapters and the bare base at once, prefill and decode, each adapter merged in its turn."""
    folders = {
        adapter: save_adapter(
            base_folder(base_name), tmp_path / adapter, seed=seed, strength=0.7, **recipe
        )
        for seed, (adapter, recipe) in enumerate(recipes(BASES[base_name]).items())
    }
    reference = Reference(base_folder(base_name), folders)
    base = load_base(str(base_folder(base_name)), device="cpu")
    vocab_size = base.model.config.get_text_config().vocab_size
    with Rig(base, folders, slots=8, max_batched_tokens=48) as rig:
        before, ties = fingerprint(base.model), 0
        for merged in list(folders)[:4]:
            info = rig.engine.merge(merged).result(PATIENCE)
            assert (info.digest, info.cause, info.active) == (merged, "operator", True)
            assert info.size_bytes > 0
            names = {
                rig.submit(f"{merged}/{adapter}/{n}", prompt, adapter, max_tokens=NEW_TOKENS): (
                    prompt,
                    adapter,
                )
                for n, prompt in enumerate(prompts(vocab_size)[:3])
                for adapter in (None, *folders)
            }
            rig.wait(*names)
            ties += sum(
                reference.check(prompt, adapter, rig.tokens(name))
                for name, (prompt, adapter) in names.items()
            )
        assert ties <= 4, "near ties are rare"
        rig.until(lambda stats: stats.merges == 4)
        rig.engine.unmerge().result(PATIENCE)
        rig.until(lambda stats: stats.merge is None)
    assert rig.engine.failed is None
    assert fingerprint(base.model) == before


def test_a_composition_can_be_merged(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        digest = rig.compose(Recipe((Term("a", 0.5), Term("b", 0.5))))
        right = [rig.generate(PROMPT, each) for each in (digest, "a", None)]
        rig.engine.merge(digest).result(PATIENCE)
        assert [rig.generate(PROMPT, each) for each in (digest, "a", None)] == right


def test_a_prefix_belongs_to_the_adapter_merged_or_not(make_rig: MakeRig) -> None:
    """Both ways give the same keys and values up to rounding, so they share them."""
    long = [*PROMPT] * 4
    with make_rig() as rig:
        right = rig.generate(long, "a")
        rig.engine.merge("a").result(PATIENCE)
        name = rig.submit("again", long, "a")
        rig.wait(name)
        assert rig.tokens(name) == right
        stats = rig.last(name).stats
        assert stats is not None
        assert stats.cached_prompt_tokens == 16


@pytest.mark.parametrize("cycles", [60])
def test_random_cycles_under_traffic_leave_the_base_as_it_was(
    make_rig: MakeRig, cycles: int
) -> None:
    """Merges, unmerges and switches, by operators and requests, while all adapters and the base generate."""
    rng = random.Random(3)
    everybody = [None, *"abcd"]
    asked = [
        (tuple(rng.randrange(2, 160) for _ in range(rng.randint(3, 20))), who)
        for who in everybody
        for _ in range(2)
    ]
    with make_rig(slots=5) as rig:
        model = rig.engine._runner.model
        before = fingerprint(model)
        right = {one: rig.generate(*one) for one in asked}
        open_requests: dict[str, tuple[tuple[int, ...], str | None]] = {}
        for cycle in range(cycles):
            for n in range(rng.randint(1, 3)):
                prompt, who = rng.choice(asked)
                wants_merge = who is not None and rng.random() < 0.2
                name = rig.submit(f"{cycle}/{n}", prompt, who, merged=wants_merge)
                open_requests[name] = (prompt, who)
            if rng.random() < 0.3:
                rig.engine.unmerge().result(PATIENCE)
            else:
                order = rig.engine.merge(rng.choice("abcd"))
                if rng.random() < 0.8:
                    assert order.exception(PATIENCE) is None
        rig.engine.unmerge().result(PATIENCE)
        rig.wait(*open_requests)
        for name, one in open_requests.items():
            error = rig.error(name)
            if error is not None:
                assert reason(error) == "MERGE_ORDERED", error
            else:
                assert rig.tokens(name) == right[one], (name, one)
        rig.until(lambda stats: stats.merges > cycles / 3)
        assert fingerprint(model) == before
        assert {one: rig.generate(*one) for one in asked} == right


# Requests that ask for it.


def test_a_request_that_asks_for_it_waits_until_its_adapter_is_merged(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        right = rig.generate(PROMPT, "a")
        rig.submit("merged", PROMPT, "a", merged=True)
        rig.wait("merged")
        assert rig.tokens("merged") == right
        info = rig.until(lambda stats: stats.merge is not None).merge
        assert info is not None
        assert (info.digest, info.cause, info.active) == ("a", "request", True)
        # It stays while nobody else would have to pay for it.
        rig.generate(PROMPT, "a")
        assert rig.idle().merge == info
        rig.generate(PROMPT, "b", max_tokens=20)
        rig.until(lambda stats: stats.merge is None)


def test_requests_for_two_adapters_take_turns(make_rig: MakeRig) -> None:
    """And whoever does not ask for it waits for none of them."""
    with make_rig() as rig:
        rig.generate(PROMPT, "b")  # so that no step is spent on loading it
        rig.submit("a1", PROMPT, "a", merged=True, max_tokens=60)
        with rig.between_steps():
            rig.submit("b1", PROMPT, "b", merged=True)
            rig.submit("a2", PROMPT, "a", merged=True)  # after one that wants another
            rig.submit("b0", PROMPT, "b")
            rig.submit("base", PROMPT)
        rig.wait("b0", "base", "a1", "b1", "a2")
        assert [name for name in rig.answers.order if name in ("a1", "b1", "a2")] == [
            "a1",
            "b1",
            "a2",
        ]
        assert {"b0", "base"} < set(rig.answers.order[: rig.answers.order.index("a1")])
        rig.until(lambda stats: stats.merges == 3)
        assert rig.tokens("b1") == rig.tokens("b0")
        assert rig.tokens("a1")[:8] == rig.tokens("a2")


def test_a_cancelled_request_takes_its_wish_along(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.source.gates["a"] = threading.Event()
        rig.submit("victim", PROMPT, "a", merged=True)
        rig.until(lambda stats: stats.waiting == 1)
        rig.engine.cancel("victim")
        rig.source.gates["a"].set()
        rig.generate(PROMPT, "a")
        assert rig.idle().merges == 0


# What is in the way.


def test_without_memory_it_is_refused_and_nothing_else_is(make_rig: MakeRig) -> None:
    with make_rig(merge_memory_bytes=1000) as rig:
        rig.submit("merged", PROMPT, "a", merged=True)
        rig.submit("beside", PROMPT, "a")
        rig.wait("merged", "beside")
        error = rig.error("merged")
        assert isinstance(error, ResourceExhausted)
        assert error.reason == "MERGE_MEMORY"
        assert int(error.metadata["needed_bytes"]) > 1000
        assert f"--merge-memory {error.metadata['needed_bytes']}" in error.message
        assert rig.error("beside") is None
        order = rig.engine.merge("a")
        assert reason(order.exception(PATIENCE)) == "MERGE_MEMORY"
        rig.until(lambda stats: stats.merge is None)
        rig.engine.unload("a").result(PATIENCE)


def test_a_device_that_has_no_room_after_all(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_rig() as rig:

        def weight(path: str) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        monkeypatch.setattr(rig.engine._runner.base, "weight", weight)
        assert reason(rig.engine.merge("a").exception(PATIENCE)) == "MERGE_MEMORY"
        assert len(rig.generate(PROMPT, "a")) == 8
        rig.until(lambda stats: stats.merge is None)


def test_a_merged_adapter_keeps_its_slot(make_rig: MakeRig) -> None:
    with make_rig(slots=2) as rig:
        right = rig.generate(PROMPT, "a")
        rig.engine.merge("a").result(PATIENCE)
        assert reason(rig.engine.unload("a").exception(PATIENCE)) == "MERGED"
        for each in "bcdbcd":
            rig.generate(PROMPT, each)
        rig.until(lambda stats: any(r.digest == "a" and r.merged for r in stats.residents))
        assert rig.generate(PROMPT, "a") == right
        rig.engine.unmerge().result(PATIENCE)
        rig.engine.unload("a").result(PATIENCE)
        rig.until(lambda stats: "a" not in {resident.digest for resident in stats.residents})


def test_an_adapter_that_must_go_is_unmerged(make_rig: MakeRig) -> None:
    """A version that is blocked, for example."""
    with make_rig() as rig:
        rig.engine.merge("a").result(PATIENCE)
        rig.engine.expel("a", NotFound("blocked", reason="BLOCKED")).result(PATIENCE)
        stats = rig.until(lambda stats: stats.merge is None)
        assert "a" not in {resident.digest for resident in stats.residents}
        assert rig.engine._runner.merged is None
        assert len(rig.generate(PROMPT, "b")) == 8


def test_what_a_request_had_merged_makes_room_for_others(make_rig: MakeRig) -> None:
    """With a single slot an adapter that stays merged for nobody would keep everybody else out."""
    with make_rig(slots=1) as rig:
        rig.submit("a", PROMPT, "a", merged=True)
        rig.wait("a")
        assert len(rig.generate(PROMPT, "b")) == 8
        rig.engine.merge("b").result(PATIENCE)
        rig.submit("refused", PROMPT, "a")
        rig.wait("refused")
        assert reason(rig.error("refused")) == "SLOTS_PINNED"


def test_an_order_stands_against_requests_for_others(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.engine.merge("a").result(PATIENCE)
        rig.submit("other", PROMPT, "b", merged=True)
        rig.submit("same", PROMPT, "a", merged=True)
        rig.wait("other", "same")
        error = rig.error("other")
        assert isinstance(error, FailedPrecondition)
        assert (error.reason, error.metadata["merged"]) == ("MERGE_ORDERED", "a")
        assert rig.error("same") is None


def test_an_order_comes_before_requests(make_rig: MakeRig) -> None:
    """What runs goes on beside."""
    with make_rig() as rig:
        right = rig.generate(PROMPT, "a", max_tokens=60)
        rig.generate(PROMPT, "b")  # so that no step is spent on loading it
        rig.submit("a", PROMPT, "a", merged=True, max_tokens=60)
        ended: list[bool] = []
        with rig.between_steps():
            order = rig.engine.merge("b")
            order.add_done_callback(lambda _: ended.append(rig.answers.ended("a")))
        order.result(PATIENCE)
        rig.wait("a")
        assert ended == [False]
        assert rig.tokens("a") == right


def test_a_later_order_takes_the_place_of_one_that_waits(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.source.gates["a"] = threading.Event()
        first = rig.engine.merge("a")
        second = rig.engine.merge("b")
        assert second.result(PATIENCE).digest == "b"
        assert isinstance(first.exception(PATIENCE), Aborted)
        rig.source.gates["a"].set()
        rig.until(lambda stats: any(r.digest == "a" and r.tier == "slot" for r in stats.residents))
        rig.until(lambda stats: stats.merge is not None and stats.merge.digest == "b")


def test_an_order_for_what_cannot_be_had_is_answered(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        assert isinstance(rig.engine.merge("nowhere").exception(PATIENCE), NotFound)
        assert rig.engine.merge("a").result(PATIENCE) == rig.engine.merge("a").result(PATIENCE)


def test_an_order_that_waits_at_the_end_is_answered(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.source.gates["a"] = threading.Event()
        order = rig.engine.merge("a")
        rig.until(lambda _: rig.source.fetched == ["a"])
        rig.source.gates["a"].set()
    assert order.done()
