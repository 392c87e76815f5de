"""What three ways to learn from preferences share: a causal LM that is to find the chosen answer likelier.

DPO: Rafailov et al. 2023 (arXiv 2305.18290). ORPO: Hong et al. 2024 (2403.07691). KTO, which needs no pairs:
Ethayarajh et al. 2024 (2402.01306). The losses are TRL's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import roc_auc_score

from lorry_bases import Quantization
from lorry_bases.load import Base, load_base
from lorry_trainer.bootstrap import interval
from lorry_trainer.data import Examples, choose
from lorry_trainer.errors import DataError, RecipeError
from lorry_trainer.formats.contract import Example
from lorry_trainer.objectives.answers import (
    answer_logprobs,
    longest,
    longest_answer,
    margins,
    preferred,
)
from lorry_trainer.objectives.contract import Scores, Segments, Setup
from lorry_trainer.progress import Progress
from lorry_trainer.prompts import refuse_base_without
from lorry_trainer.recipe import Recipe
from lorry_trainer.rewards import RULES


class CausalPreference:
    """A subclass says with which trainer."""

    task: ClassVar[str] = "CAUSAL_LM"
    sequences: ClassVar[int] = 1
    generates: ClassVar[bool] = False
    validates: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = ()
    answers: ClassVar[tuple[str, ...]]  # the columns that hold answers

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        return load_base(recipe.base, quantization=quantization, device=device)

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        refuse_base_without(base.tokenizer, data.all(), base.name)

    def lengths(self, base: Base, rows: list[Example], recipe: Recipe) -> list[int]:
        return longest(base, rows, self.answers)

    def rows_per_epoch(self, base: Base, rows: list[Example], recipe: Recipe, limit: int) -> int:
        return len(rows)

    def answer_length(self, base: Base, rows: list[Example]) -> int:
        return longest_answer(base, rows, self.answers)

    def preview(self, trainer: Any) -> list[Segments]:
        return preview(trainer)


class Paired(CausalPreference):
    sequences: ClassVar[int] = 2
    answers: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    metrics: ClassVar[tuple[str, ...]] = ("preference_accuracy", "reward_accuracy")

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        """How often, and by how much, the chosen answer is the likelier one, per token: else the shorter would mostly
        be. Against the bare base whole answers count, as in training."""
        size = recipe.evaluation.batch_size
        found = margins(
            rows, lambda pairs: answer_logprobs(base, model, pairs, size), size, progress
        )
        per_token, whole = found.T
        scores = preferred(per_token, "logprob_margin", recipe.training.seed)
        return replace(scores, margins=whole.tolist())


class Judged(CausalPreference):
    answers: ClassVar[tuple[str, ...]] = ("completion",)
    metrics: ClassVar[tuple[str, ...]] = ("preference_auc",)

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        super().refuse(base, data, recipe)
        if recipe.evaluation.reward in RULES:
            raise RecipeError(
                f"evaluation.reward: {recipe.evaluation.reward} compares with a right answer, and kto's rows have good "
                "ones and bad ones; name FILE.py:FUNCTION, or the folder of a reward model"
            )
        scored = choose(data.test, recipe.evaluation.max_rows, recipe.training.seed)
        for name, rows, way in (
            ("training", data.train, "add rows of the other"),
            ("scored test", scored, "add rows, or raise evaluation.max_rows"),
        ):
            if rows and len({row.record["label"] for row in rows}) < 2:
                kind = "good" if rows[0].record["label"] else "bad"
                raise DataError(
                    f"all {len(rows)} {name} rows are {kind} answers, and both kinds are needed; {way}"
                )

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        """How well an answer's likelihood tells good ones from bad: the area under the ROC curve."""
        size = recipe.evaluation.batch_size
        likely: list[float] = []
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            pairs = [(row.record["prompt"], row.record["completion"]) for row in batch]
            likely += answer_logprobs(base, model, pairs, size)[:, 0].tolist()
            progress.advance(len(batch))
        labels, values = np.array([row.record["label"] for row in rows]), np.array(likely)

        def area(chosen: np.ndarray) -> float:
            return float(roc_auc_score(labels[chosen], values[chosen]))

        sure = interval(area, len(rows), recipe.training.seed, strata=labels.tolist())
        return Scores(
            {"preference_auc": area(np.arange(len(rows)))},
            [f"{value:.2f}" for value in likely],
            intervals={"preference_auc": sure},
        )


def preview(trainer: Any) -> list[Segments]:
    """Prompts and answers as TRL reads them, and what becomes of each answer: all of it is learnt, or unlearnt."""
    decode = trainer.processing_class.decode
    columns = trainer.train_dataset.column_names
    shown: list[list[tuple[str, bool]]] = []
    for row in trainer.train_dataset:
        segments = [(decode(row[name]), False) for name in _PROMPTS if name in columns]
        for name, verdict in _ANSWERS.items():
            if name in columns:
                said = verdict or ("good" if row["label"] else "bad")
                segments += [(decode(row[name]), True), (f" ← {said} ", False)]
        shown.append(segments)
    return shown


# As TRL's trainers call their columns, and what an answer is where the row does not say.
_PROMPTS = ("prompt_ids", "prompt_input_ids")
_ANSWERS = {
    "chosen_ids": "chosen",
    "chosen_input_ids": "chosen",
    "rejected_ids": "rejected",
    "rejected_input_ids": "rejected",
    "completion_ids": "",
}


def beta_of(setup: Setup) -> float:
    assert setup.recipe.preference is not None  # `resolve` filled it in
    return setup.recipe.preference.beta
