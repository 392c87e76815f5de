"""Where rows come from: files, patterns, folders in the hub's layout, saved data sets, the hub."""

from __future__ import annotations

import datetime
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lorry_trainer.data import Examples, load
from lorry_trainer.errors import DataError
from lorry_trainer.recipe import Data

NONE_HELD_OUT = {"validation": 0, "test": 0}


def lines(*answers: Any, of: str = "q") -> str:
    rows = [{"instruction": f"{of} {i}", "output": answer} for i, answer in enumerate(answers)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def folder_of(tmp_path: Path, **files: str | bytes) -> Path:
    """`set` with these files."""
    for name, content in files.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / "set"


def read(tmp_path: Path, **data: Any) -> Examples:
    given = {"path": "set"} | data
    return load(Data.model_validate_json(json.dumps(given)), tmp_path, 0)


def answers(tmp_path: Path, **data: Any) -> list[str]:
    return [row.answer for row in read(tmp_path, splits=NONE_HELD_OUT, **data).train]


def test_a_folder_in_the_hubs_layout_brings_its_own_splits(tmp_path: Path) -> None:
    counts = {"train": 30, "validation": 5, "test": 4}
    files = {f"{name}.jsonl": lines(*range(n), of=name) for name, n in counts.items()}
    folder_of(tmp_path, **files)
    parts = read(tmp_path)
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [30, 5, 4]
    assert parts.test[0].place == "set/test.jsonl, line 1"
    assert {d.name for d in parts.datasets} == {"set train", "set validation", "set test"}
    assert parts.datasets == read(tmp_path).datasets


VALUES = ["007", "0042", "1.50", "None", "NA", "null", "2024-05-01", "1e3"]
CSV = "instruction;output\n" + "".join(f"q {i};{value}\n" for i, value in enumerate(VALUES))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", CSV),
        ("rows.csv", CSV.replace(";", ",")),
        ("rows.csv", CSV.replace(";", "\t").encode("utf-16")),
        ("rows.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("rows.jsonl", lines(*VALUES)),
        ("rows.json", json.dumps([json.loads(line) for line in lines(*VALUES).splitlines()])),
    ],
)
def test_a_folder_is_read_as_its_file_is(tmp_path: Path, name: str, content: str | bytes) -> None:
    """Types were guessed: 007 was learnt as 7 and 1.50 as 1.5, None and NA were dropped as empty, and semicolons,
    UTF-16, dates and gzip were refused."""
    (folder_of(tmp_path, **{name: content}) / "README.md").write_text("# Parcels\n")
    assert answers(tmp_path) == answers(tmp_path, path=f"set/{name}") == VALUES
    whole, alone = (read(tmp_path, path=p, splits=NONE_HELD_OUT) for p in ("set", f"set/{name}"))
    assert whole.datasets[0].digest == alone.datasets[0].digest


@pytest.mark.parametrize(
    ("files", "counts"),
    [
        (("train.jsonl", "dev.jsonl", "test.jsonl"), (2, 2, 2)),
        (("train/a.jsonl", "train/b.jsonl", "val/c.jsonl", "testing/d.jsonl"), (4, 2, 2)),
        (("x_training_1.jsonl", "x-eval.jsonl", "labels.json"), (2, 0, 2)),
        (
            ("data/train-00001-of-00002.jsonl", "data/train-00000-of-00002.jsonl", "other.jsonl"),
            (4, 0, 0),
        ),
        (("a.jsonl", "trains.jsonl", ".hidden.jsonl", "__cache/b.jsonl"), (4, 0, 0)),
    ],
)
def test_the_split_of_a_file_is_in_its_name(
    tmp_path: Path, files: tuple[str, ...], counts: tuple[int, ...]
) -> None:
    for name in files:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines("a", "b", of=name))
    held_out = {
        split: 0 for split, n in zip(("validation", "test"), counts[1:], strict=True) if not n
    }
    parts = read(tmp_path, splits=held_out)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == counts
    places = [row.place for row in parts.train]
    assert places == sorted(places)


def test_shards_have_splits_of_any_name(tmp_path: Path) -> None:
    name = "data/{}-00000-of-00001.jsonl".format
    folder_of(tmp_path, **{name("train_sft"): lines("a"), name("train_gen"): lines("b")})
    with pytest.raises(DataError, match=r"name one of its own .*: train_gen, train_sft"):
        read(tmp_path)
    assert answers(tmp_path, train_split="train_sft") == ["a"]


@pytest.mark.parametrize(
    ("files", "part"),
    [
        (("train-test.jsonl",), "set: train-test.jsonl is called train and test; rename it"),
        (("train.csv", "train.jsonl"), "set: train has files of several kinds (train.csv, train."),
        (("notes.md",), "set: not a data set that can be loaded"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, files: tuple[str, ...], part: str) -> None:
    folder_of(tmp_path, **dict.fromkeys(files, lines("a")))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert part in caught.value.message


@pytest.mark.parametrize("key", ["revision", "subset"])
def test_a_folder_has_no_revisions(tmp_path: Path, key: str) -> None:
    """A revision was read and passed over."""
    folder_of(tmp_path, **{"train.jsonl": lines("a")})
    with pytest.raises(DataError, match=rf"data\.{key}"):
        read(tmp_path, **{key: "main"})


def test_a_readme_that_says_which_files_there_are(tmp_path: Path) -> None:
    configs = "---\nconfigs:\n- config_name: all\n  data_files: kept.jsonl\n---\n# Parcels\n"
    files = {"kept.jsonl": lines("a"), "train.jsonl": lines("b"), "README.md": configs}
    folder_of(tmp_path, **files)
    assert answers(tmp_path) == answers(tmp_path, subset="all") == ["a"]


def test_files_that_a_pattern_fits(tmp_path: Path) -> None:
    folder_of(tmp_path, **{f"rows-{n}.jsonl": lines(n, of=n) for n in "ba"}, **{"x.jsonl": "{"})
    assert answers(tmp_path, path="set/rows-*.jsonl") == ["a", "b"]
    parts = read(tmp_path, path="set/rows-*.jsonl", splits=NONE_HELD_OUT)
    assert parts.datasets[0].name == "set/rows-*.jsonl"
    with pytest.raises(DataError, match=r"set/no-\*\.jsonl: no file in .* fits"):
        read(tmp_path, path="set/no-*.jsonl")


DAY = datetime.date(2024, 5, 1)
TYPED = {
    "day": [DAY, "2024-05-01"],
    "midnight": [datetime.datetime(2024, 5, 1), "2024-05-01"],
    "moment": [datetime.datetime(2024, 5, 1, 9, 30), "2024-05-01T09:30:00"],
    "time": [datetime.time(9, 30), "09:30:00"],
    "price": [Decimal("1.50"), "1.50"],
}


@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize("way", ["file", "folder", "saved"])
def test_dates_and_decimals_are_text(tmp_path: Path, kind: str, way: str) -> None:
    """Answers that Parquet keeps as dates, times or decimals were refused as no text."""
    import datasets

    value, written = TYPED[kind]
    rows = datasets.Dataset.from_list([{"instruction": "q", "output": value}])
    if way == "saved":
        rows.save_to_disk(tmp_path / "set")
    else:
        folder_of(tmp_path, **{"README.md": ""})
        rows.to_parquet(tmp_path / "set" / "rows.parquet")
    path = "set/rows.parquet" if way == "file" else "set"
    assert answers(tmp_path, path=path) == [written]


def test_dates_of_a_hub_data_set_are_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` makes timestamps of a JSON file's dates, and these were refused."""
    import datasets

    source = tmp_path / "rows.jsonl"
    source.write_text(lines("2024-05-01", "2024-05-02"))
    loaded = datasets.load_dataset("json", data_files=str(source), cache_dir=str(tmp_path / "c"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)
    assert answers(tmp_path, path="hub:org/name") == ["2024-05-01", "2024-05-02"]


def test_a_data_set_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def away(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", away)
    with pytest.raises(DataError, match=r"hub:org/name: not a data set .*no network"):
        load(Data(path="hub:org/name"), tmp_path, 0)


def test_a_folder_that_save_to_disk_wrote(tmp_path: Path) -> None:
    """`datasets` refuses to load it otherwise."""
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"instruction": f"q {i}", "output": f"{i}"} for i in range(30)])
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train_sft": rows, "test": rows.select(range(4))}).save_to_disk(tmp_path / "two")
    assert len(load(Data(path="one"), tmp_path, 0).all()) == 30
    with pytest.raises(
        DataError, match=r"name one of its own as data\.train_split: train_sft, test"
    ):
        load(Data(path="two"), tmp_path, 0)
    parts = load(Data(path="two", train_split="train_sft"), tmp_path, 0)
    assert len(parts.test) == 4
    with pytest.raises(DataError, match="has no subsets"):
        load(Data(path="one", subset="x"), tmp_path, 0)
    with pytest.raises(DataError, match=r"data\.revision is for a data set on the hub"):
        load(Data(path="one", revision="x"), tmp_path, 0)
