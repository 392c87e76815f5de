"""Only answers carry loss, checked on what TRL really made of the rows, and our short way to the loss is TRL's loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import SFTTrainer

from lorry_trainer.objectives.sft_trainer import Trainer
from lorry_trainer.prepare import prepare, prepare_data
from lorry_trainer.progress import Silent
from lorry_trainer.train import make_trainer

Write = Callable[..., Path]
Build = Callable[..., Any]

NO_SPLITS = {"path": "rows.jsonl", "splits": {"validation": 0, "test": 0}}


def prepared(recipe: Any, folder: Path) -> tuple[Trainer, Any]:
    run = prepare(recipe, "x", prepare_data(recipe, folder, Silent()))
    return make_trainer(run, str(folder / "scratch"), False), run.base.tokenizer


def learnt(trainer: Trainer, tokenizer: Any) -> list[tuple[str, str]]:
    """(all that is read, all that carries loss) of each row."""
    rows = trainer.train_dataset
    return [
        (
            tokenizer.decode(row["input_ids"]),
            tokenizer.decode([i for i in row["labels"] if i != -100]),
        )
        for row in rows
    ]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("row", "read", "answers"),
    [
        (
            {"instruction": "Sort.", "context": "b a", "output": "a b"},
            "<|user|>Sort.\n\nb a<|end|><|assistant|>a b<|end|>",
            "a b<|end|>",
        ),
        (
            {
                "messages": [
                    turn("system", "s"),
                    turn("user", "a"),
                    turn("assistant", "b"),
                    turn("user", "c"),
                    turn("assistant", "d"),
                ]
            },
            "<|system|>s<|end|><|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>d<|end|>",
            "b<|end|>d<|end|>",
        ),
        ({"prompt": "2+2=", "completion": "4"}, "2+2=4<|end|>", "4<|end|>"),
        ({"text": "once upon"}, "once upon<|end|>", "once upon<|end|>"),
        (
            {"prompt": [turn("user", "a")], "completion": [turn("assistant", "b")]},
            "<|user|>a<|end|><|assistant|>b<|end|>",
            "b<|end|>",
        ),
    ],
    ids=["instruction", "messages", "completion", "text", "chat completion"],
)
def test_answers_alone_carry_loss(
    row: dict[str, Any],
    read: str,
    answers: str,
    write_rows: Write,
    tiny_recipe: Build,
    tmp_path: Path,
) -> None:
    write_rows([row])
    recipe = tiny_recipe(data=NO_SPLITS, evaluation={"max_new_tokens": None})
    trainer, tokenizer = prepared(recipe, tmp_path)
    assert learnt(trainer, tokenizer) == [(read, answers)]


def test_the_short_way_gives_trls_loss_and_gradients(
    write_rows: Write, tiny_recipe: Build, letter_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_rows(
        [*letter_rows, {"instruction": "a longer question", "output": "and a longer answer"}]
    )
    trainer, _ = prepared(tiny_recipe(data=NO_SPLITS), tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in (0, 1, 59, 60)])
    factors = [p for p in trainer.model.parameters() if p.requires_grad]
    for factor in factors:
        torch.nn.init.normal_(factor, std=0.1)  # B starts at zero, which would hide A's gradient
    found = {}
    for way in (Trainer, SFTTrainer):
        trainer.model.zero_grad()
        items = torch.tensor(11)
        loss = way.compute_loss(trainer, trainer.model, dict(batch), num_items_in_batch=items)
        loss.backward()
        found[way] = (loss.detach(), [f.grad.clone() for f in factors])
    torch.testing.assert_close(found[Trainer], found[SFTTrainer], rtol=1e-4, atol=1e-5)


def test_packed_rows_do_not_see_each_other(
    write_rows: Write, tiny_recipe: Build, letter_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The loss of a packed batch is that of the same rows side by side."""
    write_rows(letter_rows[:12])
    data = NO_SPLITS | {"max_length": 120}
    found = {}
    for packing in (False, True):
        recipe = tiny_recipe(data=data, training={"packing": packing, "batch_size": 12})
        trainer, _ = prepared(recipe, tmp_path)
        trainer.model.eval()
        batch = trainer.data_collator(list(trainer.train_dataset))
        with torch.no_grad():
            found[packing] = trainer.compute_loss(trainer.model, batch).item()
    assert len(trainer.train_dataset) < 12
    assert found[True] == pytest.approx(found[False], rel=1e-4)
