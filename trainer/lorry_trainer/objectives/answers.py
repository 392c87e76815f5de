"""Answers to prompts as a model reads them, and how likely it finds each."""

from __future__ import annotations

from typing import Any

import torch

from lorry_bases.load import Base
from lorry_trainer.formats.contract import Text
from lorry_trainer.prompts import encode

Pair = tuple[Text, Text]  # prompt, answer


def token_ids(base: Base, prompt: Text, answer: Text) -> tuple[list[int], int]:
    """Prompt and answer as one row, the way TRL trains on it, and how many of its tokens are the prompt's."""
    tokenizer: Any = base.tokenizer
    if isinstance(prompt, str) and isinstance(answer, str):
        asked = encode(tokenizer, prompt)
        ids = [*encode(tokenizer, prompt + answer), tokenizer.eos_token_id]
    else:
        assert not isinstance(prompt, str)
        assert not isinstance(answer, str)
        asked = encode(tokenizer, prompt, to_answer=True)
        ids = encode(tokenizer, prompt + answer)
    return ids, min(len(asked), len(ids) - 1)


@torch.inference_mode()
def answer_logprobs(base: Base, model: Any, pairs: list[Pair], batch_size: int) -> list[float]:
    """Mean log-probability (nats) of an answer's tokens, one number for each pair, in their order.

    The mean, not the sum: else the shorter of two answers would mostly be the likelier one.
    """
    model.eval()
    found: list[float] = []
    for start in range(0, len(pairs), batch_size):
        rows = [token_ids(base, *pair) for pair in pairs[start : start + batch_size]]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        answers = torch.zeros(len(rows), width, dtype=torch.bool)
        for at, (row, num_prompt) in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = 1
            answers[at, num_prompt : len(row)] = True
        ids, mask, answers = (t.to(base.model.device) for t in (ids, mask, answers))
        # Virtual tokens stand before the others.
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -width:-1]
        chosen = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        own = answers[:, 1:]
        found += (chosen.where(own, 0.0).sum(-1) / own.sum(-1)).tolist()
    return found
