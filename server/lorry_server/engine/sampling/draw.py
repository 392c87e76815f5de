"""Random choice of a token: temperature, then top-k, top-p and min-p, as transformers orders them.

The random numbers of a token depend on its request's seed and its position alone, so a request gives the same text
whoever shares its batch, and after a preemption too.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from lorry_server.engine.sampling.spec import SampleSpec

_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads neighbouring positions over the seeds
_MASK = (1 << 64) - 1


def draw(logits: torch.Tensor, specs: Items[SampleSpec]) -> torch.Tensor:
    """[num_rows] ids, each drawn from its row of `logits` [num_rows, vocab_size] by its own seed."""
    temperature = torch.tensor([spec.params.temperature for spec in specs], device=logits.device)
    logits = logits / temperature[:, None].clamp(min=1e-5)
    if any(spec.params.top_k > 0 or spec.params.top_p < 1 for spec in specs):
        logits = _keep_likeliest(logits, specs)
    probabilities = logits.softmax(-1)
    if any(spec.params.min_p > 0 for spec in specs):
        probabilities = _keep_comparable(probabilities, specs)
    # argmax(p / e) with e ~ Exp(1) draws from p (the exponential race; Gumbel-max in other words).
    noise = torch.stack([_exponential(spec, logits.shape[-1]) for spec in specs]).to(logits.device)
    return (probabilities / noise).argmax(-1)


def _keep_likeliest(logits: torch.Tensor, specs: Items[SampleSpec]) -> torch.Tensor:
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


def _keep_comparable(probabilities: torch.Tensor, specs: Items[SampleSpec]) -> torch.Tensor:
    """Zeroes what is less likely than min-p times the likeliest token (Nguyen et al. 2024, "Turning up the heat").

    What is left does not sum to 1, which the race does not mind.
    """
    min_p = torch.tensor([spec.params.min_p for spec in specs], device=probabilities.device)
    least = min_p[:, None] * probabilities.amax(-1, keepdim=True)
    return probabilities.masked_fill(probabilities < least, 0.0)


def _exponential(spec: SampleSpec, size: int) -> torch.Tensor:
    mixed = (spec.params.seed + (spec.position + 1) * _MIX) & _MASK
    # torch looks at the lower 32 bits only.
    generator = torch.Generator().manual_seed(mixed ^ mixed >> 32)
    return torch.empty(size).exponential_(generator=generator).clamp_(min=1e-30)
