"""Which column of a file is what: by the names that data sets usually have, or as the recipe gives them.

A name is read without regard to case, and once: a column is never two things.
"""

from __future__ import annotations

from typing import Any

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Format
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data

_NUMBERS = ("id", "_id", "idx", "index", "uid", "uuid", "guid", "unnamed: 0", "__index_level_0__")


class Finder:
    """Finds a format's columns in rows."""

    def __init__(self, form: Format, data: Data) -> None:
        self._form = form
        self._data = data
        self._found: dict[tuple[tuple[str, bool], ...], dict[str, str]] = {}

    def names(self, values: dict[str, Any]) -> dict[str, str]:
        """The format's columns that a row has -> their names in it."""
        present = tuple((name, is_empty(value)) for name, value in values.items())
        if present not in self._found:
            self._found[present] = self._find(values)
        return self._found[present]

    def fits(self, values: dict[str, Any]) -> bool:
        return self._form.required.keys() <= self.names(values).keys()

    def own_columns(self, row: Row) -> dict[str, Any]:
        """Raises DataError where a column is missing that must be there."""
        names = self.names(row.values)
        for column in (*self._form.required, *self._form.optional):
            given = getattr(self._data.columns, column)
            if column not in names and (given or column in self._form.required):
                raise DataError(
                    f"{row.place}: no column {given or column!r}; it has {', '.join(row.values) or 'none'}"
                )
        return {column: value_at(row.values, name) for column, name in names.items()}

    def _find(self, values: dict[str, Any]) -> dict[str, str]:
        plain = {name.strip().casefold(): name for name in reversed(values)}
        usual = self._form.required | self._form.optional
        given = {c: name for c in usual if (name := getattr(self._data.columns, c))}
        found = {column: name for column, name in given.items() if has(values, name)}
        for column in usual:
            names = [name for name in usual[column] if name in plain]
            free = [name for name in names if plain[name] not in found.values()]
            if free and column not in given:
                found[column] = plain[self._filled(column, free, values, plain)]
        return found

    def _filled(
        self, column: str, names: list[str], values: dict[str, Any], plain: dict[str, str]
    ) -> str:
        """The first that is not empty, as where data sets of several kinds were put together; of those but the very
        first, one that can be no other column. An intent is no topic, so a row that lacks its label has none."""
        if column in ("label", "tags"):
            return names[0]
        usual = self._form.required | self._form.optional
        sure = [n for n in names[1:] if not any(n in usual[c] for c in usual if c != column)]
        return next((n for n in (names[0], *sure) if not is_empty(values[plain[n]])), names[0])


def is_empty(value: Any) -> bool:
    """Nothing, as JSON (null), pandas (NaN) and CSV have it."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def content(values: dict[str, Any]) -> dict[str, Any]:
    """The columns that are more than a row's number."""
    return {
        name: value
        for name, value in values.items()
        if name.strip().casefold() not in _NUMBERS and not name.casefold().endswith("_id")
    }


def value_at(values: dict[str, Any], name: str) -> Any:
    """Of a column, or of one within an object: `translation.de`."""
    if name in values:
        return values[name]
    outer, _, inner = name.partition(".")
    within = values.get(outer)
    return within.get(inner) if isinstance(within, dict) else None


def has(values: dict[str, Any], name: str) -> bool:
    outer, _, inner = name.partition(".")
    within = values.get(outer)
    return name in values or (isinstance(within, dict) and inner in within)


def all_names(values: dict[str, Any]) -> list[str]:
    """For messages: those within objects too."""
    return [
        f"{name}.{inner}" if inner else name
        for name, value in values.items()
        for inner in (value if isinstance(value, dict) and value else [""])
    ]
