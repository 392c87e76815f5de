"""A text and what it is: one label, perhaps of two texts together."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example, Names, named, text
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Labelled:
    required: ClassVar[Names] = {
        "text": ("text", "sentence", "sentence1", "premise", "review", "tweet", "utterance"),
        "label": (
            "label",
            "labels",
            "category",
            "intent",
            "class",
            "sentiment",
            "topic",
            "emotion",
        ),
    }
    optional: ClassVar[Names] = {"pair": ("pair", "sentence2", "hypothesis")}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        said = text(row, "text", values["text"])
        pair = text(row, "pair", values["pair"]) if values.get("pair") else None
        label = named(row, "label", _name(row, values["label"]), data)
        record = {"text": said, "pair": pair, "label": label}
        question = said if pair is None else [said, pair]
        return Example(row.place, record, said, label, question)


def _name(row: Row, value: Any) -> str:
    """Whole numbers are names too: pandas makes them floats where a label is missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool | int):
        return str(value).lower()
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.place}: label must be one name or a whole number, not {value!r}")
    return value.strip()
