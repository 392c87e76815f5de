"""Choosing tokens: the right distribution, and the same choice whoever shares the batch."""

from __future__ import annotations

import pytest
import torch

from lorry_server.engine.request import SamplingParams
from lorry_server.engine.sampling.sampler import sample
from lorry_server.engine.sampling.spec import SampleSpec

VOCAB_SIZE = 12
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.9, 0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -9.0])


def chosen(logits: torch.Tensor, specs: list[SampleSpec]) -> list[int]:
    return [sampled.token_id for sampled in sample(logits, specs)]


def reference(temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The distribution as the words define it: temperature first, then the k likeliest, then as many of those
    as it takes to reach p."""
    probabilities = (LOGITS.double() / temperature).softmax(0)
    order = probabilities.argsort(descending=True).tolist()
    kept = order[:top_k] if top_k else order
    total = sum(probabilities[token].item() for token in kept)
    nucleus, reached = [], 0.0
    for token in kept:
        nucleus.append(token)
        reached += probabilities[token].item() / total
        if reached >= top_p:
            break
    out = torch.zeros(VOCAB_SIZE, dtype=torch.float64)
    out[nucleus] = probabilities[nucleus]
    return out / out.sum()


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.randn(20, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    specs = [SampleSpec(SamplingParams(max_tokens=1, seed=i), i) for i in range(20)]
    assert chosen(logits, specs) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-9, 0.7, 5.0])
def test_the_only_candidate_is_the_greedy_one(temperature: float) -> None:
    logits = torch.randn(20, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    for limits in ({"top_k": 1}, {"top_p": 1e-9}):
        params = [
            SamplingParams(max_tokens=1, temperature=temperature, seed=i, **limits)
            for i in range(20)
        ]
        specs = [SampleSpec(each, 7) for each in params]
        assert chosen(logits, specs) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("by", ["seed", "position"])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 4, 1.0), (1.0, 0, 0.8), (0.8, 5, 0.7)],
)
def test_draws_follow_the_distribution(
    temperature: float, top_k: int, top_p: float, by: str
) -> None:
    """Over neighbouring seeds at one position, and over the positions of one seed: neither may be a poor
    source.

    The bound on chi-square is its 1 - 1e-6 quantile for 11 degrees of freedom (48), the most that there are
    here. What is outside top-k or top-p is never drawn at all.
    """
    draws = 4000
    specs = [
        SampleSpec(
            SamplingParams(
                max_tokens=1,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=i if by == "seed" else 1234,
            ),
            5 if by == "seed" else i,
        )
        for i in range(draws)
    ]
    counts = torch.bincount(
        torch.tensor(chosen(LOGITS.expand(draws, -1), specs)), minlength=VOCAB_SIZE
    )
    expected = reference(temperature, top_k, top_p) * draws
    assert not counts[expected == 0].any()
    # Rare tokens together, so that every cell expects some.
    common = expected >= 5
    cells = [(counts[common].double(), expected[common])]
    if expected[~common].sum() > 0:
        cells.append((counts[~common].double().sum()[None], expected[~common].sum()[None]))
    chi_square = sum(((seen - right) ** 2 / right).sum().item() for seen, right in cells)
    assert chi_square < 48


def test_successive_draws_of_one_seed_are_independent() -> None:
    """Pairs of neighbouring positions: 16 cells of a fair four-way draw, chi-square with 15 degrees of freedom
    (1 - 1e-6: 55)."""
    logits = torch.zeros(4000, 4)
    specs = [
        SampleSpec(SamplingParams(max_tokens=1, temperature=1.0, seed=99), position)
        for position in range(4000)
    ]
    ids = torch.tensor(chosen(logits, specs))
    counts = torch.bincount(ids[:-1] * 4 + ids[1:], minlength=16).double()
    expected = 3999 / 16
    assert ((counts - expected) ** 2 / expected).sum() < 55


def test_a_request_draws_the_same_whoever_shares_the_batch() -> None:
    """Bit for bit: alone, among greedy rows, among others with other limits, first or last."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 500, generator=generator)
    specs = [
        SampleSpec(
            SamplingParams(
                max_tokens=1,
                temperature=(0.0, 0.7, 1.0, 1.3)[i % 4],
                top_k=(0, 3, 50)[i % 3],
                top_p=(1.0, 0.9)[i % 2],
                seed=i,
            ),
            position=i,
        )
        for i in range(40)
    ]
    together = chosen(logits, specs)
    assert [chosen(logits[i : i + 1], [specs[i]])[0] for i in range(40)] == together
    order = torch.randperm(40, generator=generator).tolist()
    shuffled = chosen(logits[order], [specs[i] for i in order])
    assert shuffled == [together[i] for i in order]


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1 << 32), (7, 7 + (1 << 33)), (0, (1 << 64) - 1)])
def test_different_seeds_say_different_things(seeds: tuple[int, int]) -> None:
    """Bug: torch seeds its CPU generator with 32 bits, so that seeds which differ above those drew alike.

    By chance 64 draws from 500 equal tokens would agree with probability 500**-64.
    """
    said = [
        chosen(
            torch.zeros(64, 500),
            [
                SampleSpec(SamplingParams(max_tokens=1, temperature=1.0, seed=s), i)
                for i in range(64)
            ],
        )
        for s in seeds
    ]
    assert said[0] != said[1]
    assert sum(a == b for a, b in zip(*said, strict=True)) < 8


def test_logprobs_are_those_of_the_model() -> None:
    """Before temperature and limits, for the chosen token and the likeliest ones."""
    logits = torch.randn(6, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    right = logits.double().log_softmax(-1)
    asked = [None, 0, 1, 5, VOCAB_SIZE, VOCAB_SIZE + 10]
    specs = [
        SampleSpec(
            SamplingParams(max_tokens=1, temperature=i % 2, top_k=3, seed=i, top_logprobs=count), i
        )
        for i, count in enumerate(asked)
    ]
    for row, (sampled, count) in enumerate(zip(sample(logits, specs), asked, strict=True)):
        if count is None:
            assert sampled.logprobs is None
            continue
        assert sampled.logprobs is not None
        assert sampled.logprobs.chosen == pytest.approx(
            right[row, sampled.token_id].item(), abs=1e-5
        )
        top = sampled.logprobs.top
        likeliest = right[row].sort(descending=True)
        assert [token for token, _ in top] == likeliest.indices[:count].tolist()
        assert [value for _, value in top] == pytest.approx(
            likeliest.values[:count].tolist(), abs=1e-5
        )


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_has_no_token(fault: float, temperature: float) -> None:
    """An overflow is said, not sampled from; the rows beside it are chosen as ever. -inf is an impossible token."""
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=0.9, top_logprobs=1)
    specs = [SampleSpec(params, 0)] * 3
    right = sample(LOGITS.expand(3, -1), specs)
    spoiled = LOGITS.repeat(3, 1)
    spoiled[1, 4] = fault
    spoiled[2, -1] = float("-inf")
    assert sample(spoiled, specs)[:2] == [right[0], None]
    assert sample(spoiled, specs)[2] is not None


def test_a_step_of_half_precision_logits() -> None:
    logits = LOGITS.bfloat16()[None]
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.9, seed=3, top_logprobs=2)
    [sampled] = sample(logits, [SampleSpec(params, 0)])
    assert sampled.logprobs is not None
    assert sampled.logprobs.top[0][0] == 0
