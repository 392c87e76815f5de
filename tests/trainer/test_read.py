"""Files are read with the place of every row, and broken ones are refused at that place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lorry_trainer.errors import DataError
from lorry_trainer.read import read_source


def read(folder: Path, name: str, content: str | bytes) -> list[tuple[str, dict[str, object]]]:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)
    source = read_source(name, folder)
    assert source.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    return [(row.place, row.values) for row in source.rows]


def test_json_lines_with_blank_lines(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", '{"x": "1"}\n\n{"x": "2\u2028"}\n') == [
        ("a.jsonl, line 1", {"x": "1"}),
        ("a.jsonl, line 3", {"x": "2\u2028"}),
    ]


def test_json_list(tmp_path: Path) -> None:
    assert read(tmp_path, "a.json", '[{"x": "1"}]') == [("a.json, item 1", {"x": "1"})]


def test_csv_with_quotes_line_breaks_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeffx,y\r\n"a, b","c\nd"\r\n\r\ne,f\r\n'
    assert read(tmp_path, "a.csv", text) == [
        ("a.csv, line 2", {"x": "a, b", "y": "c\nd"}),
        ("a.csv, line 5", {"x": "e", "y": "f"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"x": 1}\n[1]\n', "a.jsonl, line 2: a row must be an object"),
        ("a.jsonl", "", "no rows; the file is empty"),
        ("a.jsonl", "\n\n", "no rows; the file is empty"),
        ("a.jsonl", b'{"x": "ok"}\n{"x": "\xff"}\n', "a.jsonl, line 2: not UTF-8"),
        ("a.json", '{"x": 1}', "must hold a list"),
        ("a.json", "[", "not JSON"),
        ("a.json", "", "no rows"),
        ("a.csv", "", "no rows"),
        ("a.csv", "x,y\n1,2\n3\n", "a.csv, line 3: 1 values for 2 columns"),
        ("a.csv", "x,x\n1,2\n", "column name stands twice"),
        ("a.csv", 'x\n"1\n', "not CSV"),
        ("a.xlsx", "x", "cannot read .xlsx; use .jsonl"),
        ("a.parquet", "PAR1", "a.parquet: not Parquet"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str | bytes, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content)
    assert part in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: no such file .*recipe's folder"):
        read_source("no.jsonl", tmp_path)


def test_parquet_rows_have_places_too(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([{"x": "a", "y": "b"}, {"x": "c", "y": None}])
    parquet.write_table(table, tmp_path / "a.parquet")
    source = read_source("a.parquet", tmp_path)
    assert [(row.place, row.values) for row in source.rows] == [
        ("a.parquet, row 1", {"x": "a", "y": "b"}),
        ("a.parquet, row 2", {"x": "c", "y": None}),
    ]
