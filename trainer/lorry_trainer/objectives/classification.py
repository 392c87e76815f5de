"""One label for a text, or for two together: an encoder, or a decoder, with a head over the labels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, set_seed

from lorry_bases import Quantization
from lorry_bases.load import Base, Head, is_encoder, load_base
from lorry_trainer.data import Examples
from lorry_trainer.formats.contract import Example
from lorry_trainer.judge import judge
from lorry_trainer.metrics import normalised
from lorry_trainer.objectives import encoded
from lorry_trainer.objectives.contract import Scores, Setup
from lorry_trainer.objectives.labels import label_set
from lorry_trainer.progress import Progress
from lorry_trainer.recipe import Recipe


class Classification(encoded.Encoded):
    task: ClassVar[str] = "SEQ_CLS"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "precision", "recall", "f1")

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        super().refuse(base, data, recipe)
        _labels(data)

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        head = Head(AutoModelForSequenceClassification, _labels(data))
        set_seed(recipe.training.seed)  # the head's first weights are drawn below
        return load_base(recipe.base, quantization=quantization, device=device, head=head)

    def inputs(self, base: Base, row: Example) -> encoded.Inputs:
        tokenizer: Any = base.tokenizer
        text, pair = row.record["text"], row.record["pair"]
        if pair is None or _pairs(base.path):
            return dict(tokenizer(text, pair))
        return dict(tokenizer(as_one(text, pair)))

    def learnt(self, trainer: Any, row: encoded.Inputs) -> str:
        return str(trainer.model.config.id2label[row["labels"]])

    def trainer(self, setup: Setup) -> encoded.Trainer:
        base = setup.base
        rows, validation = (
            [
                self.inputs(base, row) | {"labels": base.model.config.label2id[row.record["label"]]}
                for row in split
            ]
            for split in (setup.rows, setup.validation)
        )
        return encoded.trainer(setup, rows, validation, DataCollatorWithPadding(base.tokenizer))

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        names = base.model.config.id2label
        inputs = [self.inputs(base, row) for row in rows]
        answers: list[str] = []
        for batch, said in encoded.outputs(base, model, inputs, recipe.evaluation.batch_size):
            answers += [names[label] for label in said.logits.argmax(-1).tolist()]
            progress.advance(len(batch))
        labels = frozenset(map(normalised, names.values()))
        judged = judge(answers, [row.answer for row in rows], labels, seed=recipe.training.seed)
        return Scores(
            {name: judged.metrics[name] for name in self.metrics}, answers, judged, judged.intervals
        )


def as_one(text: str, pair: str) -> str:
    """Two texts for a base whose tokenizer has nothing to part them with: as a server reads Classify's `pair`
    there."""
    return f"{text}\n\n{pair}".strip()


@cache
def _pairs(base: Path) -> bool:
    """Whether it was pretrained on pairs of texts, and its tokenizer marks where the second begins."""
    return is_encoder(base)


def _labels(data: Examples) -> tuple[str, ...]:
    return label_set(data, lambda row: [row.record["label"]])


OBJECTIVE = Classification
