"""Read rows from JSON lines, JSON, CSV or Parquet, each with the place where it stands, for messages.

Knows nothing about what the columns mean.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_trainer.errors import DataError


@dataclass(frozen=True)
class Row:
    place: str  # `bookings.jsonl, line 17`
    values: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A data file as it was read."""

    name: str  # as the recipe gave it
    digest: str  # sha256:… of its bytes
    rows: list[Row]


def read_source(name: str, folder: Path) -> Source:
    """The rows of the file `name`, relative to `folder`. Raises DataError: missing, empty, or broken at a row."""
    path = folder / name
    ending = path.suffix.lower()
    if ending not in (*_READERS, ".parquet"):
        known = ", ".join([*_READERS, ".parquet"])
        raise DataError(
            f"{name}: cannot read {path.suffix or 'a file without an ending'}; use {known}"
        )
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{name}: no such file (looked for {path}; paths start at the recipe's folder)"
        ) from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error
    read = (
        _parquet(name, content)
        if ending == ".parquet"
        else _READERS[ending](name, _text(name, content))
    )
    rows = [Row(place, values) for place, values in read]
    if not rows:
        raise DataError(f"{name}: no rows; the file is empty")
    return Source(name, "sha256:" + hashlib.sha256(content).hexdigest(), rows)


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{name}, line {line}: not UTF-8; save the file as UTF-8") from error


Reader = Callable[[str, str], Iterator[tuple[str, dict[str, Any]]]]


def _json_lines(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() also splits at U+2028
        if line.strip():
            place = f"{name}, line {number}"
            try:
                yield place, _object(place, json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{place}: not JSON: {error.msg} at column {error.colno}"
                ) from error


def _json(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        items = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}"
        ) from error
    if not isinstance(items, list):
        raise DataError(
            f"{name}: a JSON file must hold a list of objects; one object per line is .jsonl"
        )
    for number, item in enumerate(items, 1):
        place = f"{name}, item {number}"
        yield place, _object(place, item)


def _csv(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        if len(set(header)) < len(header):
            raise DataError(f"{name}, line 1: a column name stands twice: {', '.join(header)}")
        before = lines.line_num
        for cells in lines:
            place, before = f"{name}, line {before + 1}", lines.line_num
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{place}: {len(cells)} values for {len(header)} columns; quote values that hold a comma"
                )
            if cells:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{name}, line {lines.line_num}: not CSV: {error}") from error


def _parquet(name: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{name}: not Parquet: {error}") from error
    for number, values in enumerate(rows, 1):
        yield f"{name}, row {number}", values


def _object(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: a row must be an object with named columns, not {json.dumps(value)[:40]}"
        )
    return value


_READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
}
