"""A text and the same in another language: put into the base's chat template."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.formats.contract import Example, Names, text, with_system
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Translation:
    required: ClassVar[Names] = {"source": ("source",), "target": ("target",)}
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        source, target = (text(row, column, values[column]) for column in ("source", "target"))
        prompt = with_system([{"role": "user", "content": source}], data.system)
        record = {"prompt": prompt, "completion": [{"role": "assistant", "content": target}]}
        return Example(row.place, record, prompt, target, prompt)
