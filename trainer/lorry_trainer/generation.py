"""Answer held-out prompts greedily, in batches."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from lorry_trainer.formats.contract import Example
from lorry_trainer.progress import Progress
from lorry_trainer.prompts import encode


def generate(
    model: Any,
    tokenizer: Any,
    rows: list[Example],
    *,
    eos_token_ids: frozenset[int],
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> list[str]:
    """The answers in the order of the rows, to the same prompts, token for token, whatever adapter is on `model`.
    Leaves the model in evaluation mode."""
    model.eval()
    prompts = [encode(tokenizer, row.prompt, to_answer=True) for row in rows]
    context = model.config.get_text_config().max_position_embeddings - virtual_tokens(model)
    pad = pad_id(tokenizer, eos_token_ids)
    answers = [""] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda i: len(prompts[i]))  # less padding
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        width = max(len(prompts[i]) for i in batch)
        config = GenerationConfig(
            max_new_tokens=max(1, min(max_new_tokens, context - width)),
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=sorted(eos_token_ids) or None,
            pad_token_id=pad,
            use_cache=True,
        )
        left_padded = [[pad] * (width - len(prompts[i])) + prompts[i] for i in batch]
        mask = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]
        with torch.inference_mode():
            ids = model.generate(
                input_ids=torch.tensor(left_padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=config,
            )
        texts = tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text.strip()
        progress.advance(len(batch))
    return answers


def pad_id(tokenizer: Any, eos_token_ids: frozenset[int]) -> int:
    pad: int | None = tokenizer.pad_token_id
    return pad if pad is not None else min(eos_token_ids, default=0)


def virtual_tokens(model: Any) -> int:
    """Positions that an adapter takes before every prompt."""
    config = getattr(model, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0
