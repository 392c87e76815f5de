"""Rows of an Arrow table in the values that JSON has: labels by their names, dates and decimals as text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from lorry_trainer.class_names import names_of, with_names

Values = dict[str, Any]


def json_rows(schema: Any, rows: Iterable[Values]) -> list[Values]:
    """Of a table with that schema."""
    names = names_of(schema)
    named = [with_names(values, names) for values in rows]
    days = _days(named)
    return [{c: _written(value, c in days) for c, value in values.items()} for values in named]


def _days(rows: list[Values]) -> set[str]:
    """Columns of timestamps none of which has a time of day: the JSON reader of `datasets`, and pandas, have no other
    type for a date."""
    times: dict[str, bool] = {}
    for values in rows:
        for column, value in values.items():
            if isinstance(value, datetime):
                bare = value.time() == time.min and value.tzinfo is None
                times[column] = times.get(column, True) and bare
    return {column for column, bare in times.items() if bare}


def _written(value: Any, is_day: bool = False) -> Any:
    if isinstance(value, datetime) and is_day:
        return value.date().isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"  # with all its places: 1.50
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, dict):
        return {name: _written(item) for name, item in value.items()}
    return value
