"""How likely a model finds what was expected: the loss per token, and its exponential, the perplexity."""

from __future__ import annotations

import math
from typing import Any

import torch

from lorry_trainer.formats.contract import Example, Text
from lorry_trainer.prompts import encode

Scored = tuple[list[int], int]  # token ids, and how many of them are given, not scored


def token_losses(
    model: Any, rows: list[Scored], pad: int, batch_size: int
) -> list[tuple[float, int]]:
    """Of each row, in their order: the sum of the cross-entropy (nats) of its scored tokens, and their number."""
    found = [(0.0, 0)] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda at: len(rows[at][0]))  # less padding
    for start in range(0, len(by_length), batch_size):
        places = by_length[start : start + batch_size]
        batch = [rows[at] for at in places]
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
            each = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        counts = scored.sum(-1).tolist()
        sums = [float(part.sum()) for part in torch.split(each, counts)]
        for at, total, count in zip(places, sums, counts, strict=True):
            found[at] = (total, count)
    return found


def token_loss(model: Any, rows: list[Scored], pad: int, batch_size: int) -> float:
    """Mean cross-entropy in nats over the scored tokens of all rows."""
    return mean_loss(token_losses(model, rows, pad, batch_size))


def mean_loss(losses: list[tuple[float, int]]) -> float:
    return sum(total for total, _ in losses) / max(1, sum(count for _, count in losses))


def answer_losses(
    model: Any, tokenizer: Any, rows: list[Example], pad: int, batch_size: int
) -> list[tuple[float, int]]:
    """`token_losses` of the expected answers, from the prompts that the evaluation asks."""
    read = [tokens_of(tokenizer, row.prompt, row.whole) for row in rows]
    return token_losses(model, read, pad, batch_size)


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def tokens_of(tokenizer: Any, prompt: Text, whole: Text) -> Scored:
    """A text as the base reads it in training, of which what comes before the prompt's answer is given."""
    ids = encode(tokenizer, whole)
    if isinstance(whole, str):
        ids = [*ids, tokenizer.eos_token_id]
    asked = encode(tokenizer, prompt, to_answer=True) if prompt else []
    given = next(
        (at for at, (a, b) in enumerate(zip(asked, ids, strict=False)) if a != b),
        min(len(asked), len(ids)),
    )
    return ids, max(1, given)  # the first token follows nothing
