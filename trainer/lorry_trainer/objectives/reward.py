"""A reward model: a number for an answer, learnt from which of two was chosen (Bradley and Terry)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

from lorry_bases import Quantization
from lorry_bases.load import Base, Head, load_base
from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.generation import as_in_training
from lorry_trainer.objectives import encoded
from lorry_trainer.objectives.answers import Pair, longest, margins, preferred, read
from lorry_trainer.objectives.contract import Scores, Segments, Setup, dataset
from lorry_trainer.objectives.preference import preview
from lorry_trainer.progress import Progress
from lorry_trainer.prompts import refuse_base_without
from lorry_trainer.recipe import Recipe

_AT_ONCE = 32  # answers
HEAD = Head(AutoModelForSequenceClassification, ("reward",))


class Trainer(Checkpoints, RewardTrainer):  # type: ignore[misc]
    pass


class Reward:
    task: ClassVar[str] = "SEQ_CLS"
    metrics: ClassVar[tuple[str, ...]] = ("preference_accuracy",)
    sequences: ClassVar[int] = 2
    generates: ClassVar[bool] = False
    validates: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = ()

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        set_seed(recipe.training.seed)  # the head's first weights are drawn below
        return load_base(recipe.base, quantization=quantization, device=device, head=HEAD)

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        refuse_base_without(base.tokenizer, data.all(), base.name)
        encoded.refuse_base_without_tokenizer(base)
        tokenizer: Any = base.tokenizer
        if tokenizer.eos_token is None and isinstance(data.train[0].prompt, str):
            raise DataError(
                f"base {base.name!r} has no token that ends a text, which a reward is read at; take a base whose "
                "tokenizer has an eos_token, a decoder such as lorry-tiny"
            )

    def lengths(self, base: Base, rows: list[Example], recipe: Recipe) -> list[int]:
        return longest(base, rows, ("chosen", "rejected"))

    def rows_per_epoch(self, base: Base, rows: list[Example], recipe: Recipe, limit: int) -> int:
        return len(rows)

    def answer_length(self, base: Base, rows: list[Example]) -> int:
        return 0

    def trainer(self, setup: Setup) -> Trainer:
        return Trainer(
            model=setup.model,
            args=RewardConfig(
                **setup.arguments,
                max_length=None,
                disable_dropout=not setup.recipe.lora.dropout,
            ),
            train_dataset=dataset(setup.rows),
            eval_dataset=dataset(setup.validation) if setup.validation else None,
            processing_class=setup.base.tokenizer,
        )

    def preview(self, trainer: Any) -> list[Segments]:
        return preview(trainer)

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        found = margins(
            rows,
            lambda pairs: np.array(rewards(base, model, pairs)),
            recipe.evaluation.batch_size,
            progress,
        )
        return preferred(found, "reward_margin", recipe.training.seed)


@torch.inference_mode()
def rewards(base: Base, model: Any, pairs: list[Pair]) -> list[float]:
    """What a reward model gives for answers to prompts, one number for each pair."""
    rows: list[encoded.Inputs] = []
    for prompt, answer in pairs:
        ids, _ = read(base, prompt, answer)
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
    found: list[float] = []
    with as_in_training(base.model):
        for _, said in encoded.outputs(base, model, rows, _AT_ONCE):
            found += said.logits[:, 0].tolist()
    return found


OBJECTIVE = Reward
