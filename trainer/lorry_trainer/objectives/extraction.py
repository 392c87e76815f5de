"""The piece of a text that answers a question: where it begins and where it ends."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, set_seed

from lorry_bases import Quantization
from lorry_bases.load import Base, Head, load_base
from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.judge import judge
from lorry_trainer.objectives import encoded
from lorry_trainer.objectives.contract import Scores, Setup
from lorry_trainer.progress import Progress
from lorry_trainer.recipe import Recipe

LONGEST_ANSWER = 64  # tokens


class Extraction(encoded.Encoded):
    task: ClassVar[str] = "QUESTION_ANS"
    metrics: ClassVar[tuple[str, ...]] = ("exact_match", "token_f1")

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        set_seed(recipe.training.seed)  # the head's first weights are drawn below
        head = Head(AutoModelForQuestionAnswering)
        return load_base(recipe.base, quantization=quantization, device=device, head=head)

    def inputs(self, base: Base, row: Example) -> encoded.Inputs:
        """Question and context as one row, and in `places` where each token of the context stands in it."""
        tokenizer: Any = base.tokenizer
        found = tokenizer(
            row.record["question"], row.record["context"], return_offsets_mapping=True
        )
        offsets, parts = found.pop("offset_mapping"), found.sequence_ids()
        inputs = dict(found)
        # PEFT keeps them from a model under an adapter that extracts; so the bare base is asked without them too.
        inputs.pop("token_type_ids", None)
        inputs["places"] = [
            tuple(offset) if part == 1 and offset[1] > offset[0] else None
            for offset, part in zip(offsets, parts, strict=True)
        ]
        return inputs

    def _labelled(self, base: Base, row: Example) -> encoded.Inputs:
        inputs = self.inputs(base, row)
        start = row.record["start"]
        stop = start + len(row.record["answer"])
        inside = [
            at
            for at, place in enumerate(inputs.pop("places"))
            if place is not None and place[0] < stop and place[1] > start
        ]
        if not inside:
            raise DataError(f"{row.place}: the base's tokenizer leaves nothing of the answer")
        return inputs | {"start_positions": inside[0], "end_positions": inside[-1]}

    def learnt(self, trainer: Any, row: encoded.Inputs) -> str:
        answer = row["input_ids"][row["start_positions"] : row["end_positions"] + 1]
        return str(trainer.processing_class.decode(answer))

    def trainer(self, setup: Setup) -> encoded.Trainer:
        base = setup.base
        rows, validation = (
            [self._labelled(base, row) for row in split] for split in (setup.rows, setup.validation)
        )
        collator = DataCollatorWithPadding(base.tokenizer)
        return encoded.trainer(setup, rows, validation, collator, loss=None)

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        inputs = [self.inputs(base, row) for row in rows]
        answers: list[str] = []
        for batch, said in encoded.outputs(base, model, inputs, recipe.evaluation.batch_size):
            for at, row in enumerate(batch):
                begin, end = best_span(said.start_logits[at], said.end_logits[at], row["places"])
                context = rows[len(answers)].record["context"]
                answers.append(context[begin:end].strip())
            progress.advance(len(batch))
        judged = judge(answers, [row.answer for row in rows], seed=recipe.training.seed)
        return Scores(
            {name: judged.metrics[name] for name in self.metrics}, answers, judged, judged.intervals
        )


def best_span(
    start: torch.Tensor, end: torch.Tensor, places: list[tuple[int, int] | None]
) -> tuple[int, int]:
    """The likeliest span of context tokens as characters, at most `LONGEST_ANSWER` tokens long.

    Args:
        start: [num_tokens or more] logits, and `end` the same.
        places: of each token the characters of the context that it stands for; None for other tokens.
    """
    own = torch.tensor([place is not None for place in places])
    length = len(places)
    both = start[:length, None].float() + end[None, :length].float()
    allowed = own[:, None] & own[None, :]
    allowed &= torch.ones(length, length).triu().tril(LONGEST_ANSWER - 1).bool()
    first, last = divmod(int(both.masked_fill(~allowed, float("-inf")).argmax()), length)
    begin, end_of = places[first], places[last]
    assert begin is not None
    assert end_of is not None
    return begin[0], end_of[1]


OBJECTIVE = Extraction
