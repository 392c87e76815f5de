"""Plain text, all of it learnt: what a base is pretrained on."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.formats.contract import Example, Names, text
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Plain:
    required: ClassVar[Names] = {"text": ("text", "content")}
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        said = text(row, "text", values["text"])
        return Example(row.place, {"text": said}, "", said, said)
