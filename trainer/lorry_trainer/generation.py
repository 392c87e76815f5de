"""Answer held-out prompts greedily, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from peft import PeftType
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
    lengths = [len(prompt) for prompt in prompts]
    same_length = virtual_tokens(model) > 0 and _virtual_ones_are_in_the_row(model)
    for batch, room in _batches(
        lengths, max_new_tokens, context, batch_size, same_length=same_length
    ):
        width = max(len(prompts[i]) for i in batch)
        config = GenerationConfig(
            max_new_tokens=room,
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


def _batches(
    lengths: list[int], most: int, context: int, batch_size: int, *, same_length: bool
) -> Iterator[tuple[list[int], int]]:
    """Places of prompts that are answered together, and how many tokens they have room for: what is said to one must
    not depend on who is beside it. So all of a batch have the same room in the context, its longest prompt included;
    and the same length, where padding before a prompt would stand between it and an adapter's virtual tokens.

    Args:
        lengths: of the prompts, in tokens.
        most: tokens of an answer.
    """

    def room(length: int) -> int:
        return max(1, min(most, context - length))

    def kind(at: int) -> int:
        return lengths[at] if same_length else room(lengths[at])

    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)  # less padding
    for _, group in groupby(by_length, kind):
        places = list(group)
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size], room(lengths[places[0]])


def as_in_training(model: Any) -> torch.autocast:
    """The precision that a step has: on a base in 16 bits, what is learnt is held in 32, modules of it too."""
    in_16_bits = model.dtype == torch.bfloat16
    return torch.autocast(model.device.type, torch.bfloat16, enabled=in_16_bits)


def pad_id(tokenizer: Any, eos_token_ids: frozenset[int]) -> int:
    pad: int | None = tokenizer.pad_token_id
    return pad if pad is not None else min(eos_token_ids, default=0)


def _virtual_ones_are_in_the_row(model: Any) -> bool:
    """A prefix is none of it: its keys and values stand before the row, and padding is masked behind them."""
    return bool(model.active_peft_config.peft_type != PeftType.PREFIX_TUNING)


def virtual_tokens(model: Any) -> int:
    """Positions that an adapter takes before every prompt."""
    config = getattr(model, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0
