"""What an objective owes: a base with the right head, rows as that base reads them, a trainer, and scores.

`run` walks the same way for all of them: rows → base → score → adapter → trainer → score → folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from datasets import Dataset
from peft import PeftModel
from transformers import Trainer

from lorry_bases import Quantization
from lorry_bases.load import Base
from lorry_trainer.bootstrap import Interval
from lorry_trainer.data import Examples
from lorry_trainer.formats.contract import Example
from lorry_trainer.judge import Judgement
from lorry_trainer.progress import Progress
from lorry_trainer.recipe import Recipe
from lorry_trainer.rewards import Reward


@dataclass(frozen=True)
class Setup:
    """What a trainer is made from."""

    base: Base
    model: Any  # the base's model with the method's adapter on it
    recipe: Recipe  # resolved
    rows: list[Example]
    validation: list[Example]
    reward: Reward | None  # what is earned, where the objective is to earn one
    arguments: dict[str, Any]  # of transformers.TrainingArguments: the same for every objective


Segments = list[tuple[str, bool]]  # text, and whether its tokens carry loss


@dataclass(frozen=True)
class Scores:
    metrics: dict[str, float]  # over all rows, by metric
    answers: list[str]  # in the order of the rows
    judgement: Judgement | None = None  # of the answers: each label's figures
    intervals: dict[str, Interval] = field(default_factory=dict)  # 95 %, by metric
    margins: list[float] = field(default_factory=list)  # log-odds (nats) of a pair's chosen answer
    rewards: list[float] = field(default_factory=list)  # each answer's, where a reward is asked for


def reference(setup: Setup) -> dict[str, Any]:
    """For TRL's configuration: how to hold the bare base that it loads once more as a reference, where what is trained
    is no adapter of PEFT's that could be switched off. Else it would be held unquantized."""
    config = getattr(setup.model.config, "quantization_config", None)
    if isinstance(setup.model, PeftModel) or config is None:
        return {}
    return {"model_init_kwargs": {"quantization_config": config.to_dict()}}


def dataset(rows: list[Example]) -> Dataset:
    """Rows as TRL's trainers take them."""
    return Dataset.from_list([row.record for row in rows])


class Objective(Protocol):
    task: ClassVar[str]  # PEFT's task type
    metrics: ClassVar[tuple[str, ...]]  # that a recipe may look at, the usual one first
    sequences: ClassVar[int]  # that a row is in a forward pass: two where answers are compared
    generates: ClassVar[bool]  # whether what is scored are answers in the model's own words
    validates: ClassVar[bool]  # whether validation rows steer training
    reports: ClassVar[
        tuple[str, ...]
    ]  # what of the trainer's own log is kept as a figure, its last value

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        """The base with the head that this objective needs. Raises BaseNotFound or BaseRefused."""
        ...

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        """Raise DataError where the base cannot read the rows, RecipeError where the recipe cannot be followed. Before
        anything of this run is trained or scored, whoever loaded the base."""
        ...

    def lengths(self, base: Base, rows: list[Example], recipe: Recipe) -> list[int]:
        """Tokens of each row in training."""
        ...

    def rows_per_epoch(self, base: Base, rows: list[Example], recipe: Recipe, limit: int) -> int:
        """Rows that the trainer takes in a pass over these: as many, or those of `limit` tokens that they are packed
        into, or every answer that is sampled."""
        ...

    def answer_length(self, base: Base, rows: list[Example]) -> int:
        """Tokens of the longest answer; 0 where none is generated."""
        ...

    def trainer(self, setup: Setup) -> Trainer:
        """One that keeps checkpoints as `lorry_trainer.checkpoints` does: mix `Checkpoints` in."""
        ...

    def preview(self, trainer: Trainer) -> list[Segments]:
        """The training rows as the trainer reads them, in its order."""
        ...

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        """How well `model` (the bare base's, or one with an adapter) does on held-out rows of `data`."""
        ...
