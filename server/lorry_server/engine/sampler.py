"""Choosing tokens: greedy, or sampled with temperature, top-k and top-p, each request by its own seed.

The random numbers of a token depend on its request's seed and its position alone, so a request gives the same text
whoever shares its batch, and after a preemption too.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from lorry_server.engine.request import SamplingParams, TokenLogprobs
from lorry_server.engine.scheduler import Sampled

_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads neighbouring positions over the seeds
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """How to choose one token."""

    params: SamplingParams
    position: int  # of the token that is to be chosen


def sample(logits: torch.Tensor, specs: Items[SampleSpec]) -> list[Sampled | None]:
    """Chooses a token for each row of `logits` [num_rows, vocab_size]; None for a row that holds NaN or +inf."""
    logits = logits.float()
    largest, chosen = logits.max(-1)  # NaN counts as the largest
    drawn = [row for row, spec in enumerate(specs) if spec.params.temperature > 0]
    if drawn:
        chosen[drawn] = _draw(logits[drawn], [specs[row] for row in drawn])
    token_ids: list[int] = chosen.tolist()
    logprobs = _logprobs(logits, token_ids, specs)
    finite: list[bool] = largest.isfinite().tolist()
    return [
        Sampled(token_id, logprobs.get(row)) if finite[row] else None
        for row, token_id in enumerate(token_ids)
    ]


def _draw(logits: torch.Tensor, specs: list[SampleSpec]) -> torch.Tensor:
    temperature = torch.tensor([spec.params.temperature for spec in specs], device=logits.device)
    logits = logits / temperature[:, None].clamp(min=1e-5)
    if any(spec.params.top_k > 0 or spec.params.top_p < 1 for spec in specs):
        logits = _keep_likeliest(logits, specs)
    # argmax(p / e) with e ~ Exp(1) draws from p (the exponential race; Gumbel-max in other words).
    noise = torch.stack([_exponential(spec, logits.shape[-1]) for spec in specs]).to(logits.device)
    return (logits.softmax(-1) / noise).argmax(-1)


def _keep_likeliest(logits: torch.Tensor, specs: list[SampleSpec]) -> torch.Tensor:
    """Sets what top-k and top-p leave out to -inf; the likeliest token always stays."""
    vocab_size = logits.shape[-1]
    top_k = [min(spec.params.top_k, vocab_size) or vocab_size for spec in specs]
    top_p = torch.tensor([spec.params.top_p for spec in specs], device=logits.device)
    ordered, index = logits.sort(-1, descending=True)
    rank = torch.arange(vocab_size, device=logits.device)
    ordered = ordered.masked_fill(
        rank >= torch.tensor(top_k, device=logits.device)[:, None], float("-inf")
    )
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    outside = (before >= top_p[:, None]) & (top_p < 1)[:, None]
    ordered = ordered.masked_fill(outside & (rank > 0), float("-inf"))
    return torch.empty_like(ordered).scatter_(-1, index, ordered)


def _exponential(spec: SampleSpec, size: int) -> torch.Tensor:
    mixed = (spec.params.seed + (spec.position + 1) * _MIX) & _MASK
    # torch looks at the lower 32 bits only.
    generator = torch.Generator().manual_seed(mixed ^ mixed >> 32)
    return torch.empty(size).exponential_(generator=generator).clamp_(min=1e-30)


def _logprobs(
    logits: torch.Tensor, token_ids: list[int], specs: Items[SampleSpec]
) -> dict[int, TokenLogprobs]:
    rows = [row for row, spec in enumerate(specs) if spec.params.top_logprobs is not None]
    if not rows:
        return {}
    logprobs = logits[rows].log_softmax(-1)
    found: dict[int, TokenLogprobs] = {}
    for row, values in zip(rows, logprobs, strict=True):
        count = min(specs[row].params.top_logprobs or 0, values.shape[-1])
        top = values.topk(count)
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        found[row] = TokenLogprobs(values[token_ids[row]].item(), tuple(pairs))
    return found
