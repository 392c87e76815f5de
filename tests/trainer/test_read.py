"""Files are read with the place of every row, and broken ones are refused at that place."""

from __future__ import annotations

import gzip
import hashlib
import json
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


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.json", '{"x": "1"}\n{"x": "2"}\n', "line 1"),  # pandas' orient="records", lines=True
        ("a.jsonl", '[{"x": "1"},\n {"x": "2"}]', "item 1"),
        ("a.json", '{"version": 1, "data": [{"x": "1"}, {"x": "2"}]}', "item 1"),
        ("a.jsonl.gz", gzip.compress(b'{"x": "1"}\n{"x": "2"}\n', mtime=0), "line 1"),
        ("a.csv", ",x,\n0,1,\n1,2,\n,,\n", "line 2"),  # pandas' index, and what Excel leaves
        ("a.csv", "x\n1\n2\n", "line 2"),
        ("a.tsv", "x\n1\n2\n", "line 2"),
        ("a.ndjson", '{\n"rows": [{"x": "1"},\n{"x": "2"}]}', "item 1"),
        ("a.csv", "x\r\n1\r\n2\r\n".encode("utf-16"), "line 2"),  # Excel's "Unicode text"
    ],
)
def test_rows_by_what_is_in_the_file(
    tmp_path: Path, name: str, content: str | bytes, place: str
) -> None:
    rows = read(tmp_path, name, content)
    assert [values for _, values in rows] == [{"x": "1"}, {"x": "2"}]
    assert rows[0][0] == f"{name}, {place}"


@pytest.mark.parametrize("mark", [",", ";", "\t", "|", ", "])
def test_whatever_stands_between_the_columns(tmp_path: Path, mark: str) -> None:
    """Semicolons and tabs made one column of two, and a blank after a comma became a part of the name."""
    text = f'x{mark}y\n"a, b; c"{mark}d\n'
    assert read(tmp_path, "a.csv", text) == [("a.csv, line 2", {"x": "a, b; c", "y": "d"})]


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("a.tsv", "x, first,or so\ty\n1\t2\n", {"x, first,or so": "1", "y": "2"}),
        ("a.csv", '"x, first";y\n1;2\n', {"x, first": "1", "y": "2"}),
        ("a.csv", "x|y, z|w\n1|2|3\n", {"x": "1", "y, z": "2", "w": "3"}),
        ("a.csv", '"x;y;z",w\n1,2\n', {"x;y;z": "1", "w": "2"}),
    ],
)
def test_a_mark_within_a_columns_name(
    tmp_path: Path, name: str, content: str, row: dict[str, object]
) -> None:
    """A comma anywhere in the first line was taken for what stands between the columns."""
    assert read(tmp_path, name, content) == [(f"{name}, line 2", row)]


def test_conll_as_text(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nBert NNP B-PER\nleft VBD O\n\n\nso O\n"
    assert read(tmp_path, "a.conll", text) == [
        ("a.conll, line 3", {"words": ["Bert", "left"], "tags": ["B-PER", "O"]}),
        ("a.conll, line 7", {"words": ["so"], "tags": ["O"]}),
    ]
    with pytest.raises(DataError, match=r"a\.conll, line 2: 'left' has no tag"):
        read(tmp_path, "a.conll", "Bert B-PER\nleft\n")


def test_squad_as_its_publisher_has_it(tmp_path: Path) -> None:
    asked = [{"id": n, "question": f"q {n}", "answers": [{"text": "a"}]} for n in range(3)]
    paragraphs = [{"context": "c", "qas": asked[:2]}, {"context": "d", "qas": asked[2:]}]
    text = json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})
    rows = read(tmp_path, "a.json", text)
    assert [(row["context"], row["question"]) for _, row in rows] == [
        ("c", "q 0"),
        ("c", "q 1"),
        ("d", "q 2"),
    ]


@pytest.mark.parametrize("column", ["data", "rows", "examples"])
def test_one_row_that_holds_a_list(tmp_path: Path, column: str) -> None:
    """Its list was read as the rows."""
    row = {"x": "1", column: ["a", "b"]}
    text = json.dumps(row) + "\n"
    assert read(tmp_path, "a.jsonl", text) == [("a.jsonl, line 1", row)]
    assert read(tmp_path, "a.json", text) == [("a.json, line 1", row)]
    objects = {"x": "1", column: [{"x": "2"}]}
    assert read(tmp_path, "a.jsonl.gz", gzip.compress(json.dumps(objects).encode(), mtime=0)) == [
        ("a.jsonl.gz, line 1", objects)
    ]


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
        ("a.json", "[", "not JSON"),
        ("a.jsonl", '{\n  "x": 1\n}\n', "a row is one object on one line"),
        ("a.csv", b"x\n\xfc\n", "a.csv, line 2: not UTF-8; save the file as UTF-8 (iconv"),
        ("a.csv", "x;y\n1;2;3\n", "quote values that hold a semicolon"),
        ("a.csv.gz", "x,y\n", "a.csv.gz: not gzip"),
        ("a.json", "", "no rows"),
        ("a.csv", "", "no rows"),
        ("a.csv", "x,y\n", "a.csv: no rows; there is nothing below its first line"),
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


def test_labels_that_are_numbers_in_parquet_have_their_names(tmp_path: Path) -> None:
    """They were learnt as 0 and 1 where `datasets` wrote the file."""
    from datasets import ClassLabel, Dataset, Features, List, Value

    names = ClassLabel(names=["bad", "good"])
    kinds = Features({"text": Value("string"), "label": names, "tags": List(names)})
    rows = {"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}
    Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "a.parquet")
    assert [row.values for row in read_source("a.parquet", tmp_path).rows] == [
        {"text": "a", "label": "good", "tags": ["bad", "good"]},
        {"text": "b", "label": None, "tags": []},
    ]


def test_a_long_cell(tmp_path: Path) -> None:
    """Cells of more than 131,072 characters were refused as no CSV."""
    long = "a b " * 50_000
    assert read(tmp_path, "a.csv", f"x,y\n1,{long}\n") == [("a.csv, line 2", {"x": "1", "y": long})]
