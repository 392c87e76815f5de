"""Choosing tokens: greedy, or drawn, each request by its own seed, from logits as each request changes them."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from lorry_server.engine.plan import Sampled
from lorry_server.engine.request import TokenLogprobs
from lorry_server.engine.sampling.adjust import adjust
from lorry_server.engine.sampling.draw import draw
from lorry_server.engine.sampling.logprobs import logprobs_of
from lorry_server.engine.sampling.spec import SampleSpec


def sample(logits: torch.Tensor, specs: Items[SampleSpec]) -> list[Sampled | None]:
    """Chooses a token for each row of `logits` [num_rows, vocab_size]; None for a row that holds NaN or +inf."""
    logits = logits.float()
    largest, chosen = logits.max(-1)  # NaN counts as the largest
    adjusted, faults = adjust(logits, specs)
    if adjusted is not logits:
        chosen = adjusted.argmax(-1)
    drawn = [row for row, spec in enumerate(specs) if spec.params.temperature > 0]
    if drawn:
        chosen[drawn] = draw(adjusted[drawn], [specs[row] for row in drawn])
    token_ids: list[int] = chosen.tolist()
    logprobs = _logprobs(logits, token_ids, specs)
    finite: list[bool] = largest.isfinite().tolist()
    return [
        Sampled(token_id, logprobs.get(row), error=faults.get(row)) if finite[row] else None
        for row, token_id in enumerate(token_ids)
    ]


def _logprobs(
    logits: torch.Tensor, token_ids: list[int], specs: Items[SampleSpec]
) -> dict[int, TokenLogprobs]:
    rows = [row for row, spec in enumerate(specs) if spec.params.top_logprobs is not None]
    if not rows:
        return {}
    top = [specs[row].params.top_logprobs or 0 for row in rows]
    return dict(
        zip(rows, logprobs_of(logits[rows], [token_ids[row] for row in rows], top), strict=True)
    )
