"""A prompt and what a right answer to it is: for a reward to judge by, never shown to the model."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.formats.contract import SYSTEM, Example, Names, first_of, text
from lorry_trainer.formats.preference import prompt_of
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Question:
    required: ClassVar[Names] = {"prompt": ("prompt", "question", "problem")}
    optional: ClassVar[Names] = {"answer": ("answer", "solution", "output"), "system": SYSTEM}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt = prompt_of(row, values, data)
        answer = text(row, "answer", first_of(values.get("answer")), may_be_empty=True)
        right = answer if answer.strip() else ""
        return Example(row.place, {"prompt": prompt, "answer": right}, prompt, right, prompt)
