"""Words and a tag for each of them, `B-name` and `I-name` where a span is meant, `O` elsewhere."""

from __future__ import annotations

import ast
from typing import Any, ClassVar

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example, Names, named
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Tagged:
    required: ClassVar[Names] = {
        "words": ("words", "tokens"),
        "tags": ("tags", "ner_tags", "labels", "pos_tags"),
    }
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        words, tags = (_names(row, column, values[column]) for column in ("words", "tags"))
        if len(words) != len(tags):
            raise DataError(
                f"{row.place}: {len(words)} words and {len(tags)} tags; there must be one for each"
            )
        tags = [named(row, "tags", tag, data) for tag in tags]
        if isinstance(data.labels, tuple) and (odd := set(tags) - set(data.labels)):
            raise DataError(f"{row.place}: {min(odd)!r} is not one of data.labels")
        return Example(
            row.place,
            {"words": words, "tags": tags},
            " ".join(words),
            " ".join(tags),
            " ".join(words),
        )


def _listed(row: Row, column: str, text: str) -> Any:
    """`["a", "b"]` of JSON, or `['a', 'b']` of Python."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError) as error:
        raise DataError(
            f"{row.place}: {column} begins as a list, and is none: {text[:40]!r}; separate names by blanks, or write "
            "them as JSON does"
        ) from error


def _names(row: Row, column: str, value: Any) -> list[str]:
    if isinstance(value, str):  # as CSV has it, and as pandas writes lists into it
        value = _listed(row, column, value) if value.lstrip().startswith("[") else value.split()
    if not isinstance(value, list) or not value:
        raise DataError(f"{row.place}: {column} must be a list of strings, not {str(value)[:40]!r}")
    if not all(isinstance(item, str | int) and str(item).strip() for item in value):
        raise DataError(f"{row.place}: {column} holds something else than names")
    return [str(item) for item in value]
