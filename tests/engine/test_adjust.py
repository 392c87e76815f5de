"""Penalties, biases and bans: each row as transformers' own processors would have it, whoever stands beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.engine.request import SamplingParams
from lorry_server.engine.sampling.adjust import adjust
from lorry_server.engine.sampling.sampler import sample
from lorry_server.engine.sampling.spec import SampleSpec

VOCAB_SIZE = 24
STOP = 3

ids = st.integers(0, VOCAB_SIZE - 1)
params = st.builds(
    SamplingParams,
    max_tokens=st.just(100),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3, 4.0]),
    presence_penalty=st.sampled_from([0.0, -1.5, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.5, 1.1]),
    logit_bias=st.dictionaries(ids, st.floats(-100, 100, width=32), max_size=4).map(
        lambda biases: tuple(sorted(biases.items()))
    ),
    bad_words=st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple),
    min_tokens=st.sampled_from([0, 0, 2, 5]),
    stop_token_ids=st.just(frozenset({STOP})),
)


def spec(params: SamplingParams, prompt: list[int], output: list[int]) -> SampleSpec:
    token_ids = [*prompt, *output]
    return SampleSpec(params, len(token_ids), token_ids, len(prompt))


def reference(row: torch.Tensor, spec: SampleSpec) -> torch.Tensor:
    """transformers' processors in our order; frequency and presence, which it lacks, by their definition."""
    params, seen = spec.params, torch.tensor([list(spec.token_ids)])
    scores = row[None].clone()
    if params.logit_bias:
        bias = SequenceBiasLogitsProcessor([[[token], value] for token, value in params.logit_bias])
        scores = bias(seen, scores)
    scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(seen, scores)
    for token, count in Counter(spec.output).items():
        scores[0, token] -= params.frequency_penalty * count + params.presence_penalty
    if params.bad_words:
        scores = NoBadWordsLogitsProcessor([list(word) for word in params.bad_words])(seen, scores)
    least = MinNewTokensLengthLogitsProcessor(spec.num_prompt_tokens, params.min_tokens, [STOP])
    return least(seen, scores)[0]


rows = st.lists(
    st.tuples(
        params, st.lists(ids, min_size=1, max_size=6), st.lists(ids, max_size=6), st.integers(0, 99)
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(rows)
def test_each_row_is_what_transformers_makes_of_it(rows) -> None:
    logits = torch.stack(
        [torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(row[3])) for row in rows]
    )
    untouched = logits.clone()
    specs = [spec(*row[:3]) for row in rows]
    adjusted, faults = adjust(logits, specs)
    assert torch.equal(logits, untouched)  # log-probabilities are those of the model
    for row, each in enumerate(specs):
        expected = reference(logits[row], each)
        torch.testing.assert_close(adjusted[row], expected, rtol=1e-5, atol=1e-5)
        assert (row in faults) == bool(expected.isinf().all())


def test_a_step_that_asks_for_nothing_is_left_alone() -> None:
    logits = torch.randn(3, VOCAB_SIZE)
    adjusted, faults = adjust(logits, [spec(SamplingParams(max_tokens=1), [1], [2])] * 3)
    assert adjusted is logits
    assert not faults


def test_bad_words_count_what_stands_before_them_in_the_prompt_too() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    banned = SamplingParams(max_tokens=1, bad_words=((5,), (1, 2, 6), (2, 7), (9, 8)))
    adjusted, _ = adjust(logits, [spec(banned, [1, 2], [])])
    assert adjusted[0].isinf().nonzero()[:, 0].tolist() == [5, 6, 7]


def test_where_everything_is_forbidden_the_request_is_told_and_no_other() -> None:
    nothing = SamplingParams(max_tokens=1, bad_words=tuple((i,) for i in range(VOCAB_SIZE)))
    plain = SamplingParams(max_tokens=1)
    logits = torch.randn(2, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    spoiled, fine = sample(logits, [spec(nothing, [1], []), spec(plain, [1], [])])
    assert isinstance(spoiled.error, FailedPrecondition)
    assert spoiled.error.reason == "NO_TOKEN_ALLOWED"
    assert fine.error is None
    assert fine.token_id == logits[1].argmax().item()


class Only:
    """A constraint that allows these ids."""

    def __init__(self, *allowed: int) -> None:
        self._allowed = allowed

    def allowed(self) -> bytes:
        bits = sum(1 << token_id for token_id in self._allowed)
        return bits.to_bytes(-(-VOCAB_SIZE // 8), "little")

    def accept(self, token_id: int) -> None:
        raise AssertionError("the sampler only asks")


class Broken(Only):
    def allowed(self) -> bytes:
        raise InvalidArgument("too complex", reason="CONSTRAINT_TOO_COMPLEX")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_bounds_its_own_row(temperature: float) -> None:
    params = SamplingParams(max_tokens=1, temperature=temperature, seed=1)
    logits = torch.randn(3, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    specs = [
        replace(spec(params, [1], []), constraint=only) for only in (Only(7, 20), None, Broken())
    ]
    bounded, free, broken = sample(logits, specs)
    assert bounded.token_id in (7, 20)
    assert free == sample(logits[1:2], specs[1:2])[0]
    assert broken.error.reason == "CONSTRAINT_TOO_COMPLEX"


def test_a_constraint_that_knows_fewer_ids_than_the_head_forbids_the_rest() -> None:
    logits = torch.zeros(1, 40)
    logits[0, 39] = 9.0
    [sampled] = sample(
        logits, [replace(spec(SamplingParams(max_tokens=1), [1], []), constraint=Only(2))]
    )
    assert sampled.token_id == 2


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1.0, 0, 1.0, 0.2), (0.7, 0, 1.0, 0.05), (1.5, 8, 0.9, 0.1), (1.0, 0, 0.8, 0.3)],
)
def test_draws_follow_transformers_warpers(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Chi-square against the distribution that transformers' warpers leave, in their order.

    The bound is the 1 - 1e-6 quantile for 23 degrees of freedom (70), the most that there are here; seeds are fixed.
    What the warpers leave out is never drawn.
    """
    draws = 4000
    row = torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(2)) * 1.5
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    warpers.append(MinPLogitsWarper(min_p))
    expected = warpers(torch.tensor([[0]]), row[None].double())[0].softmax(0) * draws
    specs = [
        SampleSpec(
            SamplingParams(
                max_tokens=1,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                seed=i,
            ),
            5,
        )
        for i in range(draws)
    ]
    drawn = torch.tensor([each.token_id for each in sample(row.expand(draws, -1), specs)])
    counts = torch.bincount(drawn, minlength=VOCAB_SIZE)
    possible = expected > 0
    assert not counts[~possible].any()
    assert 1 < possible.sum() < VOCAB_SIZE
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum().item()
    assert chi_square < 70
