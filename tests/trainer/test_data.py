"""Splits: stable, disjoint, seeded. Metrics and the check of lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorry_trainer.data import Examples, choose, load, within
from lorry_trainer.errors import DataError
from lorry_trainer.metrics import exact_match, token_f1
from lorry_trainer.recipe import Data

Write = Callable[..., Path]


def rows(count: int, answer: str = "x") -> list[dict[str, Any]]:
    return [{"instruction": f"question {i}", "output": answer} for i in range(count)]


def where(examples: Examples) -> dict[str, str]:
    """Question -> split."""
    return {
        example.prompt[0]["content"]: name  # type: ignore[index]
        for name in ("train", "validation", "test")
        for example in getattr(examples, name)
    }


def split(write_rows: Write, some: list[dict[str, Any]], seed: int = 0, **data: Any) -> Examples:
    path = write_rows(some)
    return load(Data.model_validate({"path": path.name} | data), path.parent, seed)


def test_shares_are_about_right_and_parts_are_disjoint(write_rows: Write) -> None:
    parts = split(write_rows, rows(1000))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (
        pytest.approx(800, abs=40),
        pytest.approx(100, abs=30),
        pytest.approx(100, abs=30),
    )
    assert len(where(parts)) == 1000


def test_a_row_never_moves(write_rows: Write) -> None:
    before = where(split(write_rows, rows(300)))
    after = where(split(write_rows, rows(600)[::-1]))
    assert before.items() <= after.items()


def test_the_seed_decides(write_rows: Write) -> None:
    some = rows(300)
    assert where(split(write_rows, some, seed=1)) == where(split(write_rows, some, seed=1))
    assert where(split(write_rows, some, seed=1)) != where(split(write_rows, some, seed=2))


def test_equal_questions_stay_together(write_rows: Write) -> None:
    parts = split(write_rows, rows(200) + rows(200, answer="another"))
    keys = [{e.key for e in part} for part in (parts.train, parts.validation, parts.test)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    assert sum(len(part) for part in (parts.train, parts.validation, parts.test)) == 400


def test_files_of_their_own_and_what_leaks_from_them(write_rows: Write) -> None:
    write_rows(rows(10), "test.jsonl")
    train = write_rows(rows(100), "train.jsonl")
    data = Data.model_validate({"train": "train.jsonl", "test": "test.jsonl"})
    parts = load(data, train.parent, 0)
    assert len(parts.test) == 10
    assert 0 < parts.dropped <= 10
    assert not {e.key for e in parts.train} & {e.key for e in parts.test}
    named = {(d.name, d.split): d for d in parts.datasets}
    assert set(named) == {
        ("train.jsonl", "train"),
        ("train.jsonl", "validation"),
        ("test.jsonl", "test"),
    }
    assert named["train.jsonl", "train"].row_count == len(parts.train)
    assert named["test.jsonl", "test"].digest != named["train.jsonl", "train"].digest


def test_max_rows(write_rows: Write) -> None:
    assert len(where(split(write_rows, rows(300), max_rows=100))) == 100


def test_one_row_is_too_few_to_hold_any_out(write_rows: Write) -> None:
    with pytest.raises(DataError, match=r"1 row, and none .*splits"):
        split(write_rows, rows(1))
    parts = split(write_rows, rows(1), splits={"validation": 0, "test": 0})
    assert len(parts.train) == 1


def test_training_rows_that_are_all_held_out(write_rows: Write) -> None:
    write_rows(rows(5), "test.jsonl")
    path = write_rows(rows(5), "train.jsonl")
    data = Data.model_validate(
        {"train": "train.jsonl", "test": "test.jsonl", "splits": {"validation": 0}}
    )
    with pytest.raises(DataError, match="5 asked what a held-out row asks"):
        load(data, path.parent, 0)


def test_a_choice_of_rows_is_seeded_and_independent_of_their_order(write_rows: Write) -> None:
    train = split(write_rows, rows(100)).train
    chosen = choose(train, 10, seed=3)
    assert len(chosen) == 10
    assert chosen == choose(train[::-1], 10, seed=3)
    assert chosen != choose(train, 10, seed=4)
    assert len(choose(train, 1000, seed=3)) == len(train)


def test_long_rows_are_refused_by_place_not_cut(write_rows: Write) -> None:
    parts = split(write_rows, rows(30), splits={"validation": 0, "test": 0})
    lengths = [5] * 28 + [40, 50]
    with pytest.raises(DataError) as caught:
        within(parts, 32, False, lambda _: lengths)
    said = str(caught.value)
    assert "2 of 30 rows are longer than 32 tokens" in said
    assert "rows.jsonl, line 29: 40 tokens; rows.jsonl, line 30: 50 tokens" in said
    assert "data.max_length" in said
    assert "data.unfit: skip" in said


def test_long_rows_are_left_out_where_the_recipe_says_so(write_rows: Write) -> None:
    """A hub data set with one long row could not be learnt from at all: nobody can mend its rows."""
    parts = split(write_rows, rows(30), splits={"validation": 0, "test": 0})
    kept = within(parts, 32, True, lambda _: [5] * 28 + [40, 50])
    assert kept.train == parts.train[:28]
    assert [d.row_count for d in kept.datasets] == [28]
    assert kept.notes[-1].startswith("2 of 30 rows are longer than 32 tokens, left out (")
    with pytest.raises(DataError, match="none is left of train"):
        within(parts, 32, True, lambda _: [50] * 30)


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1"),
    [
        ("Yes", " yes ", 1, 1),
        ("a b", "b a", 0, 1),
        ("people=4; day=friday", "people=5; day=friday", 0, 6 / 7),
        ("", "x", 0, 0),
        ("ﬁne", "fine", 1, 1),
        ("x y", "z", 0, 0),
    ],
)
def test_metrics(answer: str, expected: str, exact: float, f1: float) -> None:
    assert exact_match(answer, expected) == exact
    assert token_f1(answer, expected) == pytest.approx(f1)
