"""What is asked, what it is about, and the answer: put into the base's chat template."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.formats.contract import Example, Names, question_key, text, with_system
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Instruction:
    required: ClassVar[Names] = {
        "instruction": ("instruction",),
        "output": ("output", "response", "answer"),
    }
    optional: ClassVar[Names] = {"context": ("context", "input")}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        asked = text(row, "instruction", values["instruction"])
        context = text(row, "context", values.get("context") or "", may_be_empty=True)
        # replace, not format: braces in the data are text
        said = data.template.replace("{instruction}", asked).replace("{context}", context).strip()
        answer = text(row, "output", values["output"])
        prompt = with_system([{"role": "user", "content": said}], data.system)
        record: dict[str, Any] = {
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": answer}],
        }
        return Example(row.place, record, prompt, answer, question_key(prompt))
