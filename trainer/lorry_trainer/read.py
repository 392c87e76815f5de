"""Read rows from JSON lines, JSON, CSV, Parquet or CoNLL, each with the place where it stands, for messages.

Knows nothing about what the columns mean.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import hashlib
import io
import json
import re
import zlib
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
    digest: str  # sha256:… of its bytes; of several files, of their digests
    rows: list[Row]


def read_source(name: str, folder: Path) -> Source:
    """The rows of the file `name`, relative to `folder`, which may be packed by gzip, or of all files that a pattern
    (`rows-*.jsonl`) fits. Raises DataError: missing, empty, or broken at a row."""
    if glob.has_magic(name) and not (folder / name).exists():
        files = sorted(glob.glob(name, root_dir=folder, recursive=True))
        if not files:
            raise DataError(f"{name}: no file in {folder} fits this pattern")
        return joined(name, [_file(file, folder) for file in files])
    return _file(name, folder)


def joined(name: str, sources: list[Source]) -> Source:
    """Several as one. A single one keeps its digest."""
    digests = [source.digest for source in sources]
    if len(digests) > 1:
        digests = ["sha256:" + hashlib.sha256("\n".join(digests).encode()).hexdigest()]
    return Source(name, digests[0], [row for source in sources for row in source.rows])


def kind_of(name: str) -> str | None:
    """The ending that says how a file is read, without that of gzip; None where it cannot be."""
    path = Path(name.lower())
    ending = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return ending if ending in (*_READERS, ".parquet") else None


def _file(name: str, folder: Path) -> Source:
    path = folder / name
    ending = kind_of(path.name)
    if ending is None:
        known = ", ".join([*_READERS, ".parquet"])
        raise DataError(
            f"{name}: cannot read {path.suffix or 'a file without an ending'}; use {known} (.conll: a word and its tag "
            "on each line)"
        )
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{name}: no such file (looked for {path}; paths start at the recipe's folder)"
        ) from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{name}: not gzip: {error}") from error
    read = (
        _parquet(name, content)
        if ending == ".parquet"
        else _READERS[ending](name, _text(name, content))
    )
    rows = [Row(place, values) for place, values in read]
    if not rows:
        empty = (
            "the file is empty" if not content.strip() else "there is nothing below its first line"
        )
        raise DataError(f"{name}: no rows; {empty}")
    return Source(name, digest, rows)


def _text(name: str, content: bytes) -> str:
    two_bytes = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Excel has it
    try:
        return content.decode("utf-16" if two_bytes else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line}: not UTF-8; save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 does it for one "
            "that Windows wrote)"
        ) from error


Reader = Callable[[str, str], Iterator[tuple[str, dict[str, Any]]]]


def _json(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A list of objects, an object that holds one as its data, or an object on each line, whatever the ending says."""
    begun = text.lstrip()
    if begun.startswith("["):
        yield from _items(name, _whole(name, text))
    elif (held := _held(name, begun)) is not None:
        yield from _items(name, held)
    else:
        yield from _json_lines(name, text)


def _json_lines(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() also splits at U+2028
        if line.strip():
            place = f"{name}, line {number}"
            try:
                yield place, _object(place, json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{place}: not JSON: {error.msg} at column {error.colno}; a row is one object on one line, or "
                    "the file one list of objects"
                ) from error


def _whole(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}"
        ) from error


def _held(name: str, text: str) -> list[Any] | None:
    """The rows of `{"data": [{…}, …]}`; None where the text is anything else. What a line of JSON lines holds is part
    of that row."""
    if ".json" not in Path(name).suffixes and "\n" not in text.strip():
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(value, dict) or text[end:].strip():
        return None
    if articles := _articles(value):
        return articles
    lists = [value[key] for key in _HOLDERS if isinstance(value.get(key), list)]
    held = [items for items in lists if items and all(isinstance(item, dict) for item in items)]
    return held[0] if len(held) == 1 else None


def _articles(value: dict[str, Any]) -> list[Any]:
    """The questions of SQuAD's own file, each with its paragraph; nothing of another."""
    data = value.get("data")
    if not isinstance(data, list) or not all(
        isinstance(item, dict) and isinstance(item.get("paragraphs"), list) for item in data
    ):
        return []
    return [
        {"context": paragraph.get("context"), **question}
        for article in data
        for paragraph in article["paragraphs"]
        for question in paragraph.get("qas", [])
    ]


def _conll(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A word on each line, first, and its tag, last; a blank line between texts. As CoNLL 2003 has it, which marks
    documents by -DOCSTART-."""
    words: list[str] = []
    tags: list[str] = []
    first = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        cells = line.split()
        if cells and cells[0] != "-DOCSTART-":
            if len(cells) < 2:
                raise DataError(
                    f"{name}, line {number}: {line!r} has no tag; write a word and its tag on each line"
                )
            first = first or number
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            yield f"{name}, line {first}", {"words": words, "tags": tags}
            words, tags, first = [], [], 0


_HOLDERS = ("data", "rows", "examples")


def _items(name: str, items: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, item in enumerate(items, 1):
        place = f"{name}, item {number}"
        yield place, _object(place, item)


def _csv(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A column without a name is no column: pandas writes the rows' numbers so. A row without a value is no row."""
    csv.field_size_limit(2**31 - 1)  # of a cell, which is 128 KiB otherwise
    dialect = _dialect(name, text.partition("\n")[0])
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    try:
        header = [column.strip() for column in next(lines, [])]
        named = [column for column in header if column]
        if len(set(named)) < len(named):
            raise DataError(
                f"{name}, line 1: a column name stands twice: {', '.join(named)}; rename one"
            )
        before = lines.line_num
        for cells in lines:
            place, before = f"{name}, line {before + 1}", lines.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{place}: {len(cells)} values for {len(header)} columns; quote values that hold a "
                    f"{_DELIMITERS[lines.dialect.delimiter]}"
                )
            yield place, {c: v for c, v in zip(header, cells, strict=True) if c}
    except csv.Error as error:
        raise DataError(f"{name}, line {lines.line_num}: not CSV: {error}") from error


def _dialect(name: str, header: str) -> dict[str, Any]:
    """What stands between the columns: a tab where the ending says so, else the usual mark that the header has most of
    outside quotes. Where blanks follow it there, they do so in all rows."""
    bare = re.sub(r'"[^"]*"', "", header)
    tabbed = ".tsv" in Path(name).suffixes and "\t" in bare
    delimiter = "\t" if tabbed else max(_DELIMITERS, key=bare.count)
    return {"delimiter": delimiter, "skipinitialspace": delimiter + " " in header}


_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}


def _parquet(name: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    from lorry_trainer.arrow_rows import json_rows

    try:
        table = parquet.read_table(io.BytesIO(content))
    except pyarrow.ArrowException as error:
        raise DataError(f"{name}: not Parquet: {error}") from error
    for number, values in enumerate(json_rows(table.schema, table.to_pylist()), 1):
        yield f"{name}, row {number}", values


def _object(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: a row must be an object with named columns, not {json.dumps(value)[:40]}"
        )
    return value


_READERS: dict[str, Reader] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".conll": _conll,
    ".iob": _conll,
    ".bio": _conll,
}
