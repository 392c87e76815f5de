"""What the model thinks of given tokens: natural log-probabilities, before anything that a request changes."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from lorry_server.engine.request import TokenLogprobs

_ROWS_AT_ONCE = 64  # a chunk of a long prompt over a large vocabulary would take gigabytes


def logprobs_of(
    logits: torch.Tensor, token_ids: Items[int], top: Items[int]
) -> list[TokenLogprobs]:
    """For each row of `logits` [num_rows, vocab_size] its token's log-probability, and the `top` likeliest tokens'."""
    found: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, len(token_ids))
        values = logits[start:end].float().log_softmax(-1)
        ids = torch.tensor(token_ids[start:end], device=values.device)
        chosen: list[float] = values.gather(-1, ids[:, None])[:, 0].tolist()
        likeliest = values.topk(min(max(top[start:end]), values.shape[-1]))
        rows = zip(
            chosen,
            top[start:end],
            likeliest.indices.tolist(),
            likeliest.values.tolist(),
            strict=True,
        )
        found += [
            TokenLogprobs(value, tuple(zip(others[:count], theirs[:count], strict=True)))
            for value, count, others, theirs in rows
        ]
    return found
