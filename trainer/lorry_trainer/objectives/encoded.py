"""What the objectives that judge a text share: rows as token ids, a trainer over them, and batches to score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import transformers
from datasets import Dataset

from lorry_bases.load import Base
from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.objectives.contract import Segments, Setup
from lorry_trainer.recipe import Recipe

Inputs = dict[str, Any]


class Trainer(Checkpoints, transformers.Trainer):  # type: ignore[misc]
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the tokens so far, under the name that TRL's trainers give them."""
        super().log(logs | {"num_tokens": self.state.num_input_tokens_seen}, start_time)


class Encoded:
    """The verbs that are the same for all of them; a subclass says how a row becomes token ids."""

    sequences: ClassVar[int] = 1
    generates: ClassVar[bool] = False
    validates: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = ()

    def inputs(self, base: Base, row: Example) -> Inputs:
        raise NotImplementedError

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        refuse_base_without_tokenizer(base)

    def lengths(self, base: Base, rows: list[Example], recipe: Recipe) -> list[int]:
        return [len(self.inputs(base, row)["input_ids"]) for row in rows]

    def rows_per_epoch(self, base: Base, rows: list[Example], recipe: Recipe, limit: int) -> int:
        return len(rows)

    def answer_length(self, base: Base, rows: list[Example]) -> int:
        return 0

    def learnt(self, trainer: Any, row: Inputs) -> str:
        """What a row of the trainer's is to be judged as, in words."""
        raise NotImplementedError

    def preview(self, trainer: Any) -> list[Segments]:
        """The texts as they are read. What is learnt is no part of them: it stands behind."""
        decode = trainer.processing_class.decode
        return [
            [(f"{decode(row['input_ids'])} ", False), (self.learnt(trainer, row), True)]
            for row in trainer.train_dataset
        ]


def mean_over_step(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy per label of a whole step: of all its batches, in all processes.

    The models' own loss is a mean over one call's labels, which transformers takes for a part of a step's: with
    several batches to a step, or several processes, it would be so many times too large.
    """
    logits = outputs["logits"].flatten(0, -2).float()  # [labels, num_labels]
    wanted = labels.flatten()
    total = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
    return total / ((wanted != -100).sum() if num_items_in_batch is None else num_items_in_batch)


def trainer(
    setup: Setup,
    rows: list[Inputs],
    validation: list[Inputs],
    collator: Any,
    loss: Callable[..., torch.Tensor] | None = mean_over_step,
) -> Trainer:
    """transformers' own trainer over rows with labels; without `loss` it is the model's own."""
    return Trainer(
        model=setup.model,
        args=transformers.TrainingArguments(
            **setup.arguments, include_num_input_tokens_seen="non_padding"
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        processing_class=setup.base.tokenizer,
        data_collator=collator,
        compute_loss_func=loss,
    )


def refuse_base_without_tokenizer(base: Base) -> None:
    if base.tokenizer is None:
        raise DataError(f"base {base.name!r} has no tokenizer in its folder; training needs one")
    if base.tokenizer.pad_token_id is None:
        base.tokenizer.pad_token = base.tokenizer.eos_token
    base.model.config.pad_token_id = base.tokenizer.pad_token_id  # a decoder's head looks for it


@torch.inference_mode()
def outputs(
    base: Base, model: Any, rows: list[Inputs], batch_size: int
) -> Iterator[tuple[list[Inputs], Any]]:
    """What the model says of each batch of rows, in their order."""
    model.eval()
    tokenizer: Any = base.tokenizer
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        names = [name for name in tokenizer.model_input_names if name in batch[0]]
        padded = tokenizer.pad(
            [{name: row[name] for name in names} for row in batch],
            padding_side="right",
            return_tensors="pt",
        )
        yield batch, model(**padded.to(base.model.device))
