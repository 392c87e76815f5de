"""What a model answers to a prompt does not depend on who is asked beside it, nor on the precision of its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorry_bases import Quantization
from lorry_bases.load import Base, load_base
from lorry_trainer.formats.contract import Example
from lorry_trainer.generation import as_in_training, generate
from lorry_trainer.methods import METHODS
from lorry_trainer.progress import Silent
from lorry_trainer.recipe import Recipe


def asked(lengths: list[int]) -> list[Example]:
    """Prompts of so many letters, of the alphabet from another one on each."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    texts = [(alphabet[n:] + alphabet * 9)[:length] for n, length in enumerate(lengths)]
    return [Example(f"row {n}", {}, text, "", text) for n, text in enumerate(texts)]


def answers(model: Any, base: Base, rows: list[Example], batch_size: int) -> list[str]:
    return generate(
        model,
        base.tokenizer,
        rows,
        eos_token_ids=frozenset(),
        max_new_tokens=40,
        batch_size=batch_size,
        progress=Silent(),
    )


def test_a_long_prompt_leaves_its_neighbours_all_their_room(base_folder: Path) -> None:
    """The longest prompt of a batch cut everybody's answers: exact match was 0 in batches of 32, and 0.9 one by one."""
    base = load_base(str(base_folder), quantization=Quantization(type="none"), device="cpu")
    rows = asked([20, 5, 100, 12, 120, 110, 20, 127])
    together, alone = (answers(base.model, base, rows, size) for size in (8, 1))
    assert together == alone
    assert len(set(map(len, together))) > 2


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_no_padding_stands_between_virtual_tokens_and_a_prompt(
    base_folder: Path, tiny_recipe: Callable[..., Recipe], method: str
) -> None:
    """ROUGE-L was 0.32 in batches of 32, and 0.44 one by one."""
    base = load_base(str(base_folder), quantization=Quantization(type="none"), device="cpu")
    torch.manual_seed(0)
    recipe = tiny_recipe(method=method, lora={}, virtual={"tokens": 4})
    model = METHODS[method].attach(base, recipe, "CAUSAL_LM")
    rows = asked([20, 5, 12, 5, 33, 12])
    assert answers(model, base, rows, 8) == answers(model, base, rows, 1)


def test_parts_that_are_learnt_whole_answer_on_a_base_in_16_bits(base_folder: Path) -> None:
    """After all the training on a GPU scoring failed: what is learnt is held in 32 bits there."""
    base = load_base(str(base_folder), quantization=Quantization(type="none"), device="cpu")
    base.model.to(torch.bfloat16)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["norm"])
    model = get_peft_model(base.model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    with as_in_training(base.model):
        assert len(answers(model, base, asked([5, 9]), 2)) == 2
