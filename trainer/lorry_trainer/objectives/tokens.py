"""A tag for each word of a text: names, dates, slots."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any, ClassVar

import torch
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    set_seed,
)

from lorry_bases import Quantization
from lorry_bases.load import Base, Head, load_base
from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.objectives import encoded
from lorry_trainer.objectives.contract import Scores, Setup
from lorry_trainer.objectives.labels import label_set, span_metrics
from lorry_trainer.progress import Progress
from lorry_trainer.recipe import Recipe

UNLABELLED = -100  # what transformers' losses pass over


class Tokens(encoded.Encoded):
    task: ClassVar[str] = "TOKEN_CLS"
    metrics: ClassVar[tuple[str, ...]] = ("span_f1", "tag_accuracy")

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        super().refuse(base, data, recipe)
        _labels(data)

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        head = Head(AutoModelForTokenClassification, _labels(data))
        set_seed(recipe.training.seed)  # the head's first weights are drawn below
        return load_base(recipe.base, quantization=quantization, device=device, head=head)

    def inputs(self, base: Base, row: Example) -> encoded.Inputs:
        """The token ids of the words, joined by blanks, and in `places` which token speaks for each word; one of which
        the tokenizer keeps nothing is tagged by the token before it."""
        found, spoken = self._spoken(base, row)
        at = 0
        found["places"] = [at := spoken.get(word, at) for word in range(len(row.record["words"]))]
        return found

    def _spoken(self, base: Base, row: Example) -> tuple[encoded.Inputs, dict[int, int]]:
        """The token ids of a row, and word -> the token that speaks for it: its first, as is usual, but its last where
        no token sees those after it."""
        words = row.record["words"]
        starts = list(accumulate((len(word) + 1 for word in words), initial=0))[:-1]
        tokenizer: Any = base.tokenizer
        found = tokenizer(" ".join(words), return_offsets_mapping=True)
        spoken: dict[int, int] = {}
        last = _reads_onward(base.model)
        for at, (begin, end) in enumerate(found.pop("offset_mapping")):
            word = bisect_right(starts, end - 1) - 1
            # A special token stands nowhere, and the blank between two words is of neither.
            stands = begin < end and begin < starts[word] + len(words[word])
            if stands and (last or word not in spoken):
                spoken[word] = at
        return dict(found), spoken

    def _labelled(self, base: Base, row: Example) -> encoded.Inputs:
        """Only one token of a word is asked for its tag, and none for that of a word that has no token."""
        inputs, spoken = self._spoken(base, row)
        if not spoken:
            raise DataError(f"{row.place}: the base's tokenizer leaves nothing of the words")
        labels = [UNLABELLED] * len(inputs["input_ids"])
        for word, at in spoken.items():
            labels[at] = base.model.config.label2id[row.record["tags"][word]]
        return inputs | {"labels": labels}

    def learnt(self, trainer: Any, row: encoded.Inputs) -> str:
        names = trainer.model.config.id2label
        return " ".join(names[label] for label in row["labels"] if label != UNLABELLED)

    def trainer(self, setup: Setup) -> encoded.Trainer:
        base = setup.base
        rows, validation = (
            [self._labelled(base, row) for row in split] for split in (setup.rows, setup.validation)
        )
        collator = DataCollatorForTokenClassification(base.tokenizer)
        return encoded.trainer(setup, rows, validation, collator)

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
        tags: list[list[str]] = []
        for batch, said in encoded.outputs(base, model, inputs, recipe.evaluation.batch_size):
            best = said.logits.argmax(-1).tolist()
            for row, labels in zip(batch, best, strict=True):
                tags.append([names[labels[at]] for at in row["places"]])
            progress.advance(len(batch))
        metrics, intervals = span_metrics(
            tags, [row.record["tags"] for row in rows], recipe.training.seed
        )
        return Scores(metrics, [" ".join(row) for row in tags], intervals=intervals)


def _labels(data: Examples) -> tuple[str, ...]:
    return label_set(data, lambda row: row.record["tags"])


def _reads_onward(model: torch.nn.Module) -> bool:
    """Whether it is a decoder: its attention says so."""
    return any(getattr(module, "is_causal", False) for module in model.modules())


OBJECTIVE = Tokens
