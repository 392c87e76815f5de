"""How likely a model finds what was expected: the loss per token, and its exponential, the perplexity."""

from __future__ import annotations

import math
from typing import Any

import torch

from lorry_trainer.formats.contract import Example
from lorry_trainer.prompts import encode


def token_loss(model: Any, rows: list[tuple[list[int], int]], pad: int, batch_size: int) -> float:
    """Mean cross-entropy in nats over the tokens of `rows`, each its ids and how many of them are given, not scored."""
    total, count = 0.0, 0
    by_length = sorted(rows, key=lambda row: len(row[0]))  # less padding
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch])
        scored = torch.tensor(
            [[given <= at < len(ids) for at in range(1, width)] for ids, given in batch]
        )
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch])
        with torch.inference_mode():
            logits = model(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                use_cache=False,
            ).logits
            # Virtual tokens stand before the others.
            logits = logits[:, -width:-1][scored.to(model.device)].float()
            wanted = ids[:, 1:][scored].to(model.device)
            total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        count += int(scored.sum())
    return total / max(1, count)


def answer_loss(
    model: Any, tokenizer: Any, rows: list[Example], pad: int, batch_size: int
) -> float:
    """Loss per token of the expected answers, from the prompts that the evaluation asks."""
    return token_loss(model, [_tokens(tokenizer, row) for row in rows], pad, batch_size)


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _tokens(tokenizer: Any, row: Example) -> tuple[list[int], int]:
    whole = encode(tokenizer, row.whole)
    if isinstance(row.whole, str):
        whole = [*whole, tokenizer.eos_token_id]
    asked = encode(tokenizer, row.prompt, to_answer=True) if row.prompt else []
    given = next(
        (at for at, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b),
        min(len(asked), len(whole)),
    )
    return whole, max(1, given)  # the first token follows nothing
