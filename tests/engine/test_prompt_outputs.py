"""What a request may want of its prompt: scores and pooled states, however the prompt is cut, cached or redone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig

from lorry_bases.load import load_base
from lorry_server.engine.request import (
    FinishReason,
    GenerationRequest,
    PromptScores,
    SamplingParams,
)

from .bases import VOCAB_SIZE
from .rig import Rig
from .test_kinds import Alone, make_adapter


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(
        2, VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


@pytest.fixture(scope="module")
def plain(base_folder: Callable[[str], Path]) -> Any:
    """The same base, run by transformers alone."""
    return load_base(str(base_folder("llama")), device="cpu").model


@torch.inference_mode()
def expected_scores(model: Any, ids: list[int]) -> torch.Tensor:
    """[len(ids) - 1, vocab]: the log-probabilities after each token but the last."""
    return model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)


@torch.inference_mode()
def expected_states(model: Any, ids: list[int]) -> torch.Tensor:
    """[len(ids), hidden]"""
    output = model(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[-1][0]


def ask(rig: Rig, name: str, ids: list[int], adapter: str | None = None, **wanted: Any) -> str:
    params = SamplingParams(max_tokens=wanted.pop("max_tokens", 0))
    rig.engine.submit(GenerationRequest(name, tuple(ids), params, adapter, **wanted))
    return name


def scores(rig: Rig, name: str) -> list[Any]:
    assert rig.error(name) is None, rig.error(name)
    return [score for output in rig.answers.of(name) for score in output.prompt_logprobs]


def check_scores(rig: Rig, name: str, model: Any, ids: list[int], first: int, top: int) -> None:
    told = scores(rig, name)
    right = expected_scores(model, ids)[first - 1 :]
    assert len(told) == len(ids) - first
    for score, token_id, row in zip(told, ids[first:], right, strict=True):
        assert score.chosen == pytest.approx(row[token_id].item(), abs=1e-3)
        likeliest = row.topk(top)
        assert [value for _, value in score.top] == pytest.approx(
            likeliest.values.tolist(), abs=1e-3
        )


@pytest.mark.parametrize("first", [1, 9, 37])
@pytest.mark.parametrize("budget", [8, 64])
def test_scores_are_the_models_own(
    make_rig: Callable[..., Rig], plain: Any, first: int, budget: int
) -> None:
    """In one piece, and in chunks of 8; then again, with the prompt in the cache: the same, and what need not be
    computed is not."""
    ids = prompt(40)
    with make_rig(max_batched_tokens=budget) as rig:
        for name in ("cold", "warm"):
            rig.wait(ask(rig, name, ids, scores=PromptScores(first, top=3)))
            check_scores(rig, name, plain, ids, first, 3)
        last = rig.last("warm")
        assert last.finish_reason is FinishReason.LENGTH
        assert rig.tokens("warm") == []
        assert last.stats is not None
        assert last.stats.cached_prompt_tokens == (first - 1) // 8 * 8
        rig.idle()


def test_scores_beside_an_answer(make_rig: Callable[..., Rig], plain: Any) -> None:
    """Asked of a prompt that goes on; the answer is the one that it would have been."""
    ids = prompt(30, seed=1)
    with make_rig(max_batched_tokens=16) as rig:
        alone = rig.generate(ids, max_tokens=6)
        name = ask(rig, "both", ids, max_tokens=6, scores=PromptScores(1))
        rig.wait(name)
        assert [score.chosen for score in scores(rig, name)] == pytest.approx(
            expected_scores(plain, ids)[range(29), ids[1:]].tolist(), abs=1e-3
        )
        assert rig.tokens(name) == alone


def test_scores_and_states_survive_preemption(make_rig: Callable[..., Rig], plain: Any) -> None:
    """Three prompts of 6 blocks each in a memory of 10: some give their blocks back, yet nothing is told twice."""
    asked = {f"r{seed}": prompt(48, seed=seed) for seed in range(3)}
    with make_rig(kv_blocks=10, max_batched_tokens=8) as rig:
        for name, ids in asked.items():
            ask(rig, name, ids, max_tokens=4, scores=PromptScores(1, 2), pool_from=0)
        rig.wait(*asked)
        assert rig.engine.stats().preemptions > 0
        for name, ids in asked.items():
            check_scores(rig, name, plain, ids, 1, 2)
            assert rig.last(name).embedding == pytest.approx(
                expected_states(plain, ids).mean(0).tolist(), abs=1e-3
            )
        rig.idle()


@pytest.mark.parametrize("pool_from", [0, 39])
@pytest.mark.parametrize("budget", [8, 64])
def test_pooled_states_are_the_models_own(
    make_rig: Callable[..., Rig], plain: Any, pool_from: int, budget: int
) -> None:
    ids = prompt(40, seed=2)
    right = expected_states(plain, ids)[pool_from:].mean(0)
    with make_rig(max_batched_tokens=budget) as rig:
        for name in ("cold", "warm"):
            rig.wait(ask(rig, name, ids, pool_from=pool_from))
            assert rig.error(name) is None
            assert rig.last(name).embedding == pytest.approx(right.tolist(), abs=1e-3)
        rig.idle()


def test_everything_in_one_batch_with_adapters(
    make_rig: Callable[..., Rig], plain: Any, adapters: dict[str, Path]
) -> None:
    """Generating, scoring and pooling requests of several adapters share steps, and each gets what it gets alone."""
    ids = {name: prompt(24, seed=5 + i) for i, name in enumerate("abc")}
    with make_rig(max_batched_tokens=64) as rig:

        def submit(prefix: str, name: str) -> list[str]:
            return [
                ask(rig, f"{prefix}-s-{name}", ids[name], name, scores=PromptScores(4, 1)),
                ask(rig, f"{prefix}-p-{name}", ids[name], name, pool_from=0),
                ask(rig, f"{prefix}-g-{name}", ids[name], name, max_tokens=5),
            ]

        for name in ids:
            for one in submit("alone", name):
                rig.wait(one)
        together = [one for name in ids for one in submit("mixed", name)]
        rig.wait(*together)
        for one in together:
            alone = one.replace("mixed", "alone")
            assert rig.tokens(one) == rig.tokens(alone)
            assert rig.last(one).embedding == pytest.approx(rig.last(alone).embedding, abs=1e-4)
            assert [score.chosen for score in scores(rig, one)] == pytest.approx(
                [score.chosen for score in scores(rig, alone)], abs=1e-4
            )
        bare = expected_states(plain, ids["a"]).mean(0).tolist()
        assert rig.last("mixed-p-a").embedding != pytest.approx(bare, abs=1e-2)


def test_followers_share_the_blocks_of_the_one_they_follow(make_rig: Callable[..., Rig]) -> None:
    """Submitted together, four sequences compute their prompt of 5 blocks once."""
    ids = prompt(41)
    with make_rig() as rig:
        params = SamplingParams(max_tokens=4, temperature=1.0)
        rig.engine.submit(
            *(
                GenerationRequest(f"n{i}", tuple(ids), params, follows="n0" if i else None)
                for i in range(4)
            )
        )
        names = [f"n{i}" for i in range(4)]
        rig.wait(*names)
        cached = [rig.last(name).stats.cached_prompt_tokens for name in names]
        assert cached == [0, 40, 40, 40]
        assert len({tuple(rig.tokens(name)) for name in names}) == 1  # the same seed
        rig.idle()


def test_followers_go_on_where_the_one_they_follow_is_cancelled(
    make_rig: Callable[..., Rig],
) -> None:
    ids = prompt(20)
    with make_rig() as rig:
        params = SamplingParams(max_tokens=4)
        rig.engine.submit(
            GenerationRequest("leader", tuple(ids), params),
            GenerationRequest("follower", tuple(ids), params, follows="leader"),
        )
        rig.engine.cancel("leader")
        rig.wait("follower")
        assert len(rig.tokens("follower")) == 4
        rig.idle()


def test_all_or_none_are_submitted(make_rig: Callable[..., Rig]) -> None:
    from lorry_registry.errors import ResourceExhausted

    with make_rig(max_waiting=3) as rig:
        params = SamplingParams(max_tokens=2)
        with pytest.raises(ResourceExhausted, match="4 more"):
            rig.engine.submit(*(GenerationRequest(f"n{i}", (5,), params) for i in range(4)))
        rig.generate([5], max_tokens=2)
        rig.idle()


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_stand_before_what_is_scored_and_pooled(
    base_folder: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    """However the prompt is cut: scores are those of the prompt's own tokens, and so are the states."""
    settings = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 11}
    configs = {"prompt": PromptTuningConfig(**settings), "prefix": PrefixTuningConfig(**settings)}
    base, ids = base_folder("llama"), prompt(30)
    folder = make_adapter(base, tmp_path / kind, configs[kind], 0)
    alone = Alone(base, folder).model
    with torch.inference_mode():
        output = alone(input_ids=torch.tensor([ids]), output_hidden_states=True)
    states = output.hidden_states[-1][0, -len(ids) :]
    right = output.logits[0, -len(ids) :].log_softmax(-1)
    with Rig(load_base(str(base), device="cpu"), {kind: folder}, max_batched_tokens=9) as rig:
        for name in ("first", "again"):  # the second finds blocks in memory
            ask(rig, name, ids, kind, scores=PromptScores(first=1, top=0), pool_from=0)
            rig.wait(name)
            chosen = [score.chosen for score in scores(rig, name)]
            expected = [right[at, token].item() for at, token in enumerate(ids[1:])]
            assert chosen == pytest.approx(expected, abs=1e-4)
            pooled = torch.tensor(rig.last(name).embedding)
            torch.testing.assert_close(pooled, states.mean(0), rtol=1e-4, atol=1e-4)
