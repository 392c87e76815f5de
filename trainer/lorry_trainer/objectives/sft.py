"""Supervised fine-tuning of a causal LM: instructions, chats, prompts and completions, plain text."""

from __future__ import annotations

from itertools import groupby
from typing import Any, ClassVar

from datasets import Dataset
from trl import SFTConfig, pack_dataset

from lorry_bases import Quantization
from lorry_bases.load import Base, load_base
from lorry_trainer.bootstrap import of_ratio
from lorry_trainer.data import Examples
from lorry_trainer.errors import RecipeError
from lorry_trainer.formats.contract import Example
from lorry_trainer.generation import pad_id
from lorry_trainer.judge import OF_LABELS, OF_TEXT, judge
from lorry_trainer.likelihood import answer_losses, mean_loss, perplexity
from lorry_trainer.objectives.answers import answered
from lorry_trainer.objectives.contract import Scores, Segments, Setup, dataset
from lorry_trainer.objectives.sft_trainer import Trainer
from lorry_trainer.progress import Progress
from lorry_trainer.prompts import answer_length, count_tokens, refuse_base_without
from lorry_trainer.recipe import Recipe


class Sft:
    task: ClassVar[str] = "CAUSAL_LM"
    metrics: ClassVar[tuple[str, ...]] = (
        "exact_match",
        "token_f1",
        "accuracy",
        "precision",
        "recall",
        "f1",
        "rouge_l",
        "bleu",
        "chrf",
        "loss",
        "perplexity",
    )
    sequences: ClassVar[int] = 1
    generates: ClassVar[bool] = True
    validates: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = ()

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        return load_base(recipe.base, quantization=quantization, device=device)

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        refuse_base_without(base.tokenizer, data.all(), base.name)
        refuse_figures(data, recipe)

    def lengths(self, base: Base, rows: list[Example], recipe: Recipe) -> list[int]:
        return count_tokens(base.tokenizer, [row.whole for row in rows])

    def rows_per_epoch(self, base: Base, rows: list[Example], recipe: Recipe, limit: int) -> int:
        if not recipe.training.packing:
            return len(rows)
        blank = Dataset.from_dict(
            {"input_ids": [[0] * length for length in self.lengths(base, rows, recipe)]}
        )
        return len(pack_dataset(blank, limit))

    def answer_length(self, base: Base, rows: list[Example]) -> int:
        return answer_length(base.tokenizer, rows)

    def trainer(self, setup: Setup) -> Trainer:
        packing = setup.recipe.training.packing
        chats = setup.recipe.data.format == "messages"
        arguments = SFTConfig(
            **setup.arguments,
            # Longer rows were refused before; nothing is cut.
            max_length=setup.recipe.data.max_length if packing else None,
            packing=packing,
            eval_packing=False,
            assistant_only_loss=chats,
            completion_only_loss=not chats and setup.recipe.data.format != "text",
        )
        return Trainer(
            model=setup.model,
            args=arguments,
            train_dataset=dataset(setup.rows),
            eval_dataset=dataset(setup.validation) if setup.validation else None,
            processing_class=setup.base.tokenizer,
        )

    def preview(self, trainer: Trainer) -> list[Segments]:
        decode = trainer.processing_class.decode
        return [
            [
                (decode([i for i, _ in run]), learnt)
                for learnt, run in groupby(
                    zip(row["input_ids"], row["labels"], strict=True), key=lambda t: t[1] != -100
                )
            ]
            for row in trainer.train_dataset
        ]

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        model.eval()
        seed = recipe.training.seed
        pad = pad_id(base.tokenizer, base.eos_token_ids)
        losses = answer_losses(model, base.tokenizer, rows, pad, recipe.evaluation.batch_size)
        loss, (totals, counts) = mean_loss(losses), zip(*losses, strict=True)
        sure = of_ratio(totals, counts, seed)
        figures = {"loss": loss, "perplexity": perplexity(loss)}
        intervals = {"loss": sure, "perplexity": (perplexity(sure[0]), perplexity(sure[1]))}
        if recipe.data.format == "text":  # it asks nothing
            progress.advance(len(rows))
            return Scores(figures, [""] * len(rows), intervals=intervals)
        answers = answered(base, model, rows, recipe, progress)
        judged = judge(answers, [row.answer for row in rows], data.labels, seed)
        return Scores(judged.metrics | figures, answers, judged, judged.intervals | intervals)


def refuse_figures(data: Examples, recipe: Recipe) -> None:
    """Raise RecipeError where one is asked for that rows of this kind never have."""
    measured: tuple[str, ...] = ("loss", "perplexity")
    if data.format == "text":
        why = "rows of plain text have no answers"
    elif data.labels:
        measured = tuple(name for name in Sft.metrics if name not in OF_TEXT)
        why = "it is of free text, and the answers are labels (if they are none, set data.labels: any)"
    else:
        measured = tuple(name for name in Sft.metrics if name not in OF_LABELS)
        why = "it is of labels, and the answers are none (if they are, name them as data.labels)"
    for name in filter(None, (recipe.evaluation.metric, *recipe.require)):
        if name in Sft.metrics and name not in measured:
            raise RecipeError(
                f"{name} is not measured here: {why}; choose of {', '.join(measured)}"
            )


OBJECTIVE = Sft
