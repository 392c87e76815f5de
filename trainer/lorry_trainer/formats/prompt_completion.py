"""A prompt and what follows it: plain text as it stands, or lists of messages."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.formats.contract import SYSTEM, Example, Names
from lorry_trainer.formats.preference import answer_to, prompt_of, words_of
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class PromptCompletion:
    required: ClassVar[Names] = {"prompt": ("prompt",), "completion": ("completion",)}
    optional: ClassVar[Names] = {"system": SYSTEM}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt = prompt_of(row, values, data)
        completion = answer_to(prompt, row, "completion", values["completion"])
        record = {"prompt": prompt, "completion": completion}
        return Example(row.place, record, prompt, words_of(completion), prompt)
