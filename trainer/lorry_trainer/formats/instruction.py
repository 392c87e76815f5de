"""What is asked, what it is about, and the answer: put into the base's chat template."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from lorry_trainer.errors import DataError, RecipeError
from lorry_trainer.formats.contract import (
    SYSTEM,
    Example,
    Names,
    first_of,
    named,
    system_of,
    text,
    with_system,
)
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Instruction:
    required: ClassVar[Names] = {
        "instruction": ("instruction", "question", "query", "prompt", "input"),
        "output": ("output", "response", "answer", "answers"),
    }
    optional: ClassVar[Names] = {
        "context": ("context", "input", "passage"),
        "system": SYSTEM,
    }

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        asked = text(row, "instruction", values["instruction"])
        context = text(row, "context", values.get("context"), may_be_empty=True)
        if context.strip() and "{context}" not in data.template:
            raise RecipeError(
                f"{row.place} has a context, and data.template no {{context}}: it would not be asked; put it into the "
                "template, or leave the column out of the data"
            )
        # All at once, and by nothing that knows more of braces: those in the data are text.
        own = {"{instruction}": asked, "{context}": context}
        said = re.sub("|".join(own), lambda place: own[place[0]], data.template).strip()
        answer = named(row, "output", text(row, "output", _one(row, values["output"])), data)
        system = system_of(row, values.get("system"), data)
        prompt = with_system([{"role": "user", "content": said}], system)
        record: dict[str, Any] = {
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": answer}],
        }
        return Example(row.place, record, prompt, answer, prompt)


def _one(row: Row, answer: Any) -> Any:
    if type(answer) is int and isinstance(row.values.get("choices"), list):
        raise DataError(
            f"{row.place}: the answer is a place among choices; write the choice itself, and the choices into "
            "the question"
        )
    return first_of(answer)
