"""What is foreseen of a run's memory, against what a step holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorry_trainer.errors import DataError
from lorry_trainer.forecast import forecast
from lorry_trainer.looking import look
from lorry_trainer.prepare import prepare, prepare_data
from lorry_trainer.progress import Silent
from lorry_trainer.recipe_file import parse_recipe
from lorry_trainer.train import make_trainer

from .conftest import letters

ROWS = {
    "sft": ("instruction", {"instruction": "one two three four five six seven", "output": "eight"}),
    "classification": ("labelled", {"text": "one two three four five six seven", "label": "it"}),
    "dpo": ("preference", {"prompt": "one two three", "chosen": "four five", "rejected": "six"}),
}


def _held_by_a_step(model: Any, inputs: dict[str, Any]) -> int:
    """Bytes of all that a forward pass keeps for the backward pass, parameters aside."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(**inputs)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("objective", "dropout"),
    [("sft", 0.0), ("sft", 0.1), ("classification", 0.0), ("classification", 0.1), ("dpo", 0.0)],
)
def test_activations_are_those_that_a_step_holds(
    write_rows: Callable[..., Path], tmp_path: Path, objective: str, dropout: float
) -> None:
    """The logits of a whole vocabulary were counted for a head of 77 labels, one answer of two, and no dropout."""
    form, row = ROWS[objective]
    numbers = {name: 2 if name == "label" else 40 for name in row}
    write_rows([{k: f"{v} {10 + i % numbers[k]}" for k, v in row.items()} for i in range(40)])
    recipe = parse_recipe(
        f"{{objective: {objective}, lora: {{rank: 8, dropout: {dropout}}}, "
        f"data: {{path: rows.jsonl, format: {form}, splits: {{validation: 0.0, test: 0.0}}}}, "
        "training: {batch_size: 8, max_steps: 1}}"
    )
    run = prepare(recipe, "it", prepare_data(recipe, tmp_path, Silent()))
    trainer = make_trainer(run, str(tmp_path / "scratch"), watched=False)
    foreseen = forecast(run, trainer.model)
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "labels")}
    if objective == "dpo":
        inputs["labels"] = inputs["input_ids"]
        assert len(inputs["input_ids"]) == 16
    padding = foreseen.longest_row_tokens / inputs["input_ids"].shape[1]
    held = _held_by_a_step(trainer.model, inputs) * padding
    assert math.isclose(foreseen.activation_bytes, held, rel_tol=0.3)


def test_room_for_the_answers_that_are_sampled(
    tiny_recipe: Callable[..., Any], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    """A prompt with room for itself alone was found too long within a run, or its answers ran out of the context."""
    write_rows([{"prompt": "x" * 100 + str(i), "answer": "1"} for i in range(20)])
    reinforcement = {"reward": "number", "max_new_tokens": 40, "generations": 4}
    recipe = tiny_recipe(
        objective="grpo",
        data={"splits": {"validation": 0.0, "test": 0.0}},
        evaluation={"max_new_tokens": None},
        reinforcement=reinforcement,
    )
    with pytest.raises(DataError, match="longer than 128 tokens"):
        look(recipe, "it", tmp_path, Silent())


PAIRS = [
    {"prompt": f"{word} {i}", "chosen": "the one", "rejected": "another"}
    for i in range(9)
    for word in ("red", "green", "blue")
]
ANSWERS = [
    {"prompt": f"{word} {i}", "completion": word, "label": i % 2 == 0}
    for i in range(9)
    for word in ("red", "green", "blue")
]
QUESTIONS = [{"prompt": f"{word} {i}", "answer": word} for i in range(9) for word in ("red", "sea")]
REINFORCED = {"reward": "exact_match", "max_new_tokens": 2, "generations": 4}


@pytest.mark.parametrize(
    ("rows", "sections"),
    [
        (letters(50), {}),
        (letters(50), {"training": {"gradient_accumulation": 3, "batch_size": 4}}),
        (letters(50), {"training": {"packing": True, "batch_size": 2}}),
        (letters(50), {"training": {"group_by_length": True, "epochs": 1.5}}),
        (
            [{"text": row["instruction"], "label": row["output"]} for row in letters(50)],
            {"objective": "classification", "training": {"batch_size": 7}},
        ),
        (PAIRS, {"objective": "dpo"}),
        (PAIRS, {"objective": "reward", "training": {"gradient_accumulation": 2}}),
        (ANSWERS, {"objective": "kto"}),
        (QUESTIONS, {"objective": "grpo", "reinforcement": REINFORCED}),
        (
            QUESTIONS,
            {
                "objective": "rloo",
                "reinforcement": REINFORCED,
                "training": {"gradient_accumulation": 2, "batch_size": 4},
            },
        ),
    ],
)
def test_steps_are_those_that_the_trainer_runs(
    tiny_recipe: Callable[..., Any],
    write_rows: Callable[..., Path],
    tmp_path: Path,
    rows: list[dict[str, Any]],
    sections: dict[str, Any],
) -> None:
    """Steps were foreseen as if every row were read alone: with packing 120 for 2, so that no checkpoint was kept and
    nothing stopped early; where answers are sampled 10 for 78."""
    write_rows(rows)
    training = {"max_steps": None, "epochs": 2, "batch_size": 8} | sections.pop("training", {})
    recipe = tiny_recipe(
        data={"splits": {"validation": 0.0, "test": 0.0}},
        training=training,
        evaluation={"max_new_tokens": None},
        **sections,
    )
    run = prepare(recipe, "it", prepare_data(recipe, tmp_path, Silent()))
    trainer = make_trainer(run, str(tmp_path / "scratch"), watched=False)
    *_, max_steps = trainer.set_initial_training_values(
        trainer.args, trainer.get_train_dataloader()
    )
    assert run.resolved.total_steps == max_steps > 1
    assert run.recipe.training.eval_steps == max(1, max_steps // 10)


def test_too_few_prompts_for_a_step_are_refused(
    tiny_recipe: Callable[..., Any], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    """The trainer would run no step at all, and say so in a warning."""
    write_rows(QUESTIONS[:3])
    recipe = tiny_recipe(
        objective="grpo",
        data={"splits": {"validation": 0.0, "test": 0.0}},
        training={"batch_size": 16},
        reinforcement=REINFORCED,
    )
    with pytest.raises(DataError, match="4 answers to each of 4 prompts, and there are 3 training"):
        look(recipe, "it", tmp_path, Silent())
