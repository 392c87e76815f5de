"""What is found in rows and what becomes of it: repeats, leaks, labels, strata, variants."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorry_trainer.augment import augment
from lorry_trainer.data import Examples, load, within
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.recipe import Augment, Columns, Data, Splits

Write = Callable[..., Path]
Rows = list[dict[str, Any]]


def asked(rows: Rows | list[str], answer: str = "x") -> Rows:
    return [{"instruction": q, "output": answer} if isinstance(q, str) else q for q in rows]


def split(write_rows: Write, some: Rows, **data: Any) -> Examples:
    path = write_rows(some)
    return load(Data.model_validate_json(json.dumps({"path": path.name} | data)), path.parent, 0)


NONE_HELD_OUT = {"validation": 0, "test": 0}


@pytest.mark.parametrize("named", ["message", "text"])
def test_a_csv_of_two_columns_needs_no_names(tmp_path: Path, named: str) -> None:
    """A question in a column `text` was once taken for plain text to learn, and its label for nothing."""
    lines = "".join(f"where is parcel {i},track\n" for i in range(40))
    (tmp_path / "rows.csv").write_text(f"{named},intent\n" + lines)
    parts = load(Data(path="rows.csv"), tmp_path, 0)
    assert parts.columns == Columns(instruction=named, output="intent")
    assert parts.train[0].answer == "track"
    assert f"rows.csv: {named} is asked, intent answered" in parts.notes


def test_three_columns_without_usual_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(DataError, match="columns a, b, c fit no format"):
        load(Data(path="rows.csv"), tmp_path, 0)


def test_pairs_of_one_question_are_no_repeats(write_rows: Write, tmp_path: Path) -> None:
    """Of several wrong answers set against one right one only the first was kept, and so were whole conversations with
    the same beginning and end; right ones were told as at odds with each other."""
    pair = {"prompt": "6 + 6?", "chosen": "12", "rejected": "10"}
    pairs = [pair, pair | {"rejected": "11"}, pair | {"chosen": "twelve"}, pair]
    write_rows(pairs)
    data = Data.model_validate_json(json.dumps({"path": "rows.jsonl", "splits": NONE_HELD_OUT}))
    parts = load(data, tmp_path, 0, ("preference",))
    assert len(parts.train) == 3
    assert len(parts.notes) == 1
    assert "1 row is there already" in parts.notes[0]

    def chat(middle: str) -> dict[str, Any]:
        said = [("user", "hi"), ("assistant", middle), ("user", "thanks"), ("assistant", "bye")]
        return {"messages": [{"role": role, "content": content} for role, content in said]}

    assert len(split(write_rows, [chat("yes"), chat("no")], splits=NONE_HELD_OUT).train) == 2


def test_repeated_rows_are_learnt_once_and_told(write_rows: Write) -> None:
    some = asked([f"q {i}" for i in range(9)] + ["q 3", "Q  3"])
    parts = split(write_rows, some, splits=NONE_HELD_OUT)
    assert len(parts.train) == 9
    assert (
        "2 rows are there already, left out (rows.jsonl, line 10 is rows.jsonl, line 4; "
        in (parts.notes[0])
    )
    kept = split(write_rows, some, splits=NONE_HELD_OUT, deduplicate=False)
    assert len(kept.train) == 11


@pytest.mark.parametrize(
    "other", ["what is it", " What  is it ", "what\nis\tit", "what is it\n", "what\u00a0is it"]
)
@pytest.mark.parametrize("form", ["instruction", "prompt", "messages", "labelled", "pair"])
def test_a_leak_is_one_whatever_blank_space_is_in_it(
    write_rows: Write, tmp_path: Path, other: str, form: str
) -> None:
    """Blank space at an end, a line break or a tab made another question: what was learnt was tested too."""

    def row(text: str) -> dict[str, Any]:
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}]
        return {
            "instruction": {"instruction": text, "output": "x"},
            "prompt": {"prompt": text, "completion": "x"},
            "messages": {"messages": said},
            "labelled": {"text": text, "label": "x"},
            "pair": {"text": text, "pair": "the same", "label": "x"},
        }[form]

    write_rows([row("what is it")], "test.jsonl")
    write_rows([row(other), row("and this")], "train.jsonl")
    data = Data.model_validate(
        {"train": "train.jsonl", "test": "test.jsonl", "splits": {"validation": 0}}
    )
    formats = ("labelled",) if form in ("labelled", "pair") else OBJECTIVES["sft"]
    assert [row.place for row in load(data, tmp_path, 0, formats).train] == ["train.jsonl, line 2"]


def test_a_letter_is_the_same_however_it_is_composed(write_rows: Write) -> None:
    questions = ["caf\u00e9?", "cafe\u0301?", "cafe?", "3\u00b2?", "32?"]
    parts = split(write_rows, asked(questions), splits=NONE_HELD_OUT)
    assert [row.place[-1] for row in parts.train] == ["1", "3", "4", "5"]


def test_answers_that_differ_in_case_are_no_repeats(write_rows: Write, tmp_path: Path) -> None:
    """Rows of preferences whose rejected answers differ in case were taken for one."""
    pair = {"prompt": "Say it", "chosen": "Yes.", "rejected": "YES."}
    write_rows([pair, pair | {"rejected": "yes."}, pair | {"prompt": "say  it "}])
    data = Data.model_validate({"path": "rows.jsonl", "splits": NONE_HELD_OUT})
    parts = load(data, tmp_path, 0, ("preference",))
    assert [row.place[-1] for row in parts.train] == ["1", "2"]


def test_a_part_of_the_rows_is_drawn_from_all_of_them(write_rows: Write) -> None:
    """The first ones of a file that is sorted by label are of one label."""
    some = labelled({"a": 50, "b": 50, "c": 50})
    parts = split(write_rows, some, max_rows=60, splits=NONE_HELD_OUT)
    assert len(parts.train) == 60
    assert Counter(row.answer for row in parts.train).keys() == {"a", "b", "c"}
    numbers = [int(row.place.rpartition(" ")[2]) for row in parts.train]
    assert numbers == sorted(numbers)
    assert parts == split(write_rows, some, max_rows=60, splits=NONE_HELD_OUT)


def test_a_label_whose_rows_are_all_left_out_is_not_tested(write_rows: Write) -> None:
    """Labels were looked at before rows that are too long were left out, so that nobody learnt what was asked."""
    write_rows(labelled({"a": 20, "b": 20, "c": 9}), "train.jsonl")
    write_rows(labelled({"a": 2, "b": 2}) + asked(["one"], "c"), "test.jsonl")
    given = {"train": "train.jsonl", "test": "test.jsonl", "splits": {"validation": 0}}
    parts = load(Data.model_validate(given), write_rows([{}]).parent, 0)

    def lengths(rows: list[Example]) -> list[int]:
        return [99 if row.answer == "c" and "train" in row.place else 9 for row in rows]

    with pytest.raises(DataError, match=r"no training row has \(test.jsonl, line 5: 'c'\)"):
        within(parts, 32, True, lengths)


def test_a_question_with_two_answers_is_told(write_rows: Write) -> None:
    parts = split(write_rows, asked(["q"], "a") + asked(["q"], "b"), splits=NONE_HELD_OUT)
    assert len(parts.train) == 2
    assert (
        "row answers a question otherwise (rows.jsonl, line 2 and rows.jsonl, line 1)"
        in (parts.notes[0])
    )


def test_leaks_from_train_to_test_are_named_and_left_out(write_rows: Write) -> None:
    write_rows(asked(["q 3", "q 5"]), "test.jsonl")
    path = write_rows(asked([f"q {i}" for i in range(10)]), "train.jsonl")
    data = Data.model_validate(
        {"train": "train.jsonl", "test": "test.jsonl", "splits": NONE_HELD_OUT}
    )
    parts = load(data, path.parent, 0)
    assert len(parts.train) == 8
    assert len(parts.test) == 2
    said = (
        "2 rows ask what a held-out row asks, left out (train.jsonl, line 4 is test.jsonl, line 1; "
    )
    assert any(note.startswith(said) for note in parts.notes)


def labelled(counts: dict[str, int]) -> Rows:
    return [
        {"instruction": f"{name} {i}", "output": name}
        for name, n in counts.items()
        for i in range(n)
    ]


def test_a_label_seen_only_in_test_is_refused_by_row(write_rows: Write) -> None:
    write_rows(asked(["odd one"], "c") + asked(["fine"], "a"), "test.jsonl")
    path = write_rows(labelled({"a": 20, "b": 20}), "train.jsonl")
    given = {"train": "train.jsonl", "test": "test.jsonl"}
    with pytest.raises(
        DataError, match=r"1 row has a label that no training row has \(test.jsonl, line 1: 'c'\)"
    ):
        load(Data.model_validate(given), path.parent, 0)
    assert (
        load(Data.model_validate(given | {"labels": "any"}), path.parent, 0).labels == frozenset()
    )


def test_an_unknown_label_is_refused_by_row(write_rows: Write) -> None:
    some = labelled({"yes": 10, "no": 10}) + asked(["what"], "maybe")
    with pytest.raises(
        DataError, match=r"is not one of data.labels \(rows.jsonl, line 21: 'maybe'\)"
    ):
        split(write_rows, some, labels=["Yes", "no"], splits=NONE_HELD_OUT)


@pytest.mark.parametrize("other", ["Pay", "pay ", " pay"])
@pytest.mark.parametrize("form", ["instruction", "labelled"])
def test_labels_are_written_alike(write_rows: Write, tmp_path: Path, other: str, form: str) -> None:
    """Blanks behind some of them, which no editor shows, were learnt: accuracy was 0.87 instead of 1. Of texts with a
    label blanks at the ends are none of it."""
    some = labelled({"pay": 20, "other": 20})
    some[3]["output"] = other
    if form == "labelled":
        some = [{"text": row["instruction"], "label": row["output"]} for row in some]
        if other.strip() == "pay":
            return
    write_rows(some)
    data = Data.model_validate({"path": "rows.jsonl", "splits": NONE_HELD_OUT})
    formats = ("labelled",) if form == "labelled" else OBJECTIVES["sft"]
    with pytest.raises(DataError, match=r"labels 'pay' \(rows.jsonl, line 1\) and '.*' \(rows"):
        load(data, tmp_path, 0, formats)


def test_labels_are_told_with_their_numbers(write_rows: Write, tmp_path: Path) -> None:
    """`7 labels` was all that was said of four and three cells like N/A."""
    some = labelled({"pay": 25, "other": 20, "N/A": 1})
    notes = split(write_rows, some, splits=NONE_HELD_OUT).notes
    assert "3 labels (pay 25, other 20, N/A 1; in one row alone: N/A)" in notes
    lines = "".join(f"mail {i},{'pay' if i % 2 else 'other'}\n" for i in range(40))
    (tmp_path / "rows.csv").write_text(lines)
    told = load(Data(path="rows.csv", splits=Splits(validation=0, test=0)), tmp_path, 0).notes
    assert any(
        n.startswith("rows.csv: a column is called 'other', which is a label too") for n in told
    )


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        ("['Bert', 'left']", "['B-PER', 'O']"),
        ('["Bert", "left"]', '["B-PER", "O"]'),
        ("Bert left", "B-PER O"),
    ],
)
def test_lists_in_a_cell(write_rows: Write, tmp_path: Path, words: str, tags: str) -> None:
    """pandas writes lists as Python shows them: their brackets and commas were read as parts of words."""
    write_rows([{"words": words, "tags": tags}])
    data = Data.model_validate({"path": "rows.jsonl", "splits": NONE_HELD_OUT})
    (row,) = load(data, tmp_path, 0, ("tagged",)).train
    assert row.record == {"words": ["Bert", "left"], "tags": ["B-PER", "O"]}
    write_rows([{"words": "[Bert left", "tags": tags}])
    with pytest.raises(DataError, match="words begins as a list, and is none"):
        load(data, tmp_path, 0, ("tagged",))


def test_a_column_that_is_named_and_not_there(write_rows: Write, tmp_path: Path) -> None:
    """It was said to name one, which the recipe had done."""
    write_rows([{"message": "a", "team": "b"}])
    data = Data.model_validate_json(
        '{"path": "rows.jsonl", "columns": {"instruction": "text", "output": "team"}}'
    )
    with pytest.raises(
        DataError,
        match=r"columns\.instruction is text, and there is no such column; it has",
    ):
        load(data, tmp_path, 0)
    write_rows([{"a": "a", "b": "b", "c": "c"}])
    with pytest.raises(DataError, match=r"as in `columns: \{words: …, tags: …\}`"):
        load(Data(path="rows.jsonl"), tmp_path, 0, ("tagged",))


def test_free_answers_are_no_labels(write_rows: Write) -> None:
    some = [{"instruction": f"q {i}", "output": f"answer {i}"} for i in range(100)]
    assert split(write_rows, some).labels == frozenset()
    assert split(write_rows, labelled({"a": 10, "b": 10})).labels == {"a", "b"}


def test_strata_have_their_share_and_rare_labels_are_learnt(write_rows: Write) -> None:
    some = labelled({"often": 300, "seldom": 30, "once": 1})
    parts = split(write_rows, some)
    count = {
        name: Counter(row.answer for row in getattr(parts, name))
        for name in ("train", "validation", "test")
    }
    assert count["test"]["often"] in (30, 31)
    assert count["validation"]["often"] in (29, 30, 31)
    assert count["test"]["seldom"] in (3, 4)
    assert count["train"]["once"] == 1
    assert parts == split(write_rows, some)
    again = split(write_rows, some[::-1])
    assert {row.key for row in again.test} == {row.key for row in parts.test}
    keys = [{row.key for row in getattr(parts, n)} for n in ("train", "validation", "test")]
    assert len(set.union(*keys)) == sum(map(len, keys)) == 331


def test_every_bad_row_is_told_at_once(write_rows: Write) -> None:
    some = asked(["a", " ", "b", ""])
    with pytest.raises(DataError) as caught:
        split(write_rows, some)
    assert "rows.jsonl, line 2: instruction is empty" in str(caught.value)
    assert "rows.jsonl, line 4: instruction is empty" in str(caught.value)


def test_variants_are_of_training_rows_alone(write_rows: Write) -> None:
    some = [
        {"instruction": f"please move booking number {i} to friday", "output": f"friday {i}"}
        for i in range(60)
    ]
    plain = split(write_rows, some)
    more = split(
        write_rows,
        some,
        augment={"copies": 2, "templates": ["{question}", "Tell me: {question}"], "typos": 0.5},
    )
    assert (more.validation, more.test) == (plain.validation, plain.test)
    assert len(plain.train) < len(more.train) <= 3 * len(plain.train)
    assert [row for row in more.train if ", variant" not in row.place] == plain.train
    held_out = {row.key for row in more.validation + more.test}
    assert not held_out & {row.key for row in more.train}
    assert len({row.key for row in more.train}) == len(more.train)
    for row in more.train:
        said = row.record["prompt"][0]["content"]
        assert row.prompt == row.record["prompt"]
        number = row.answer.split()[1]
        assert f" {number} to friday" in said  # what carries the answer stands as it was
    assert more == split(
        write_rows,
        some,
        augment={"copies": 2, "templates": ["{question}", "Tell me: {question}"], "typos": 0.5},
    )
    sizes = {d.split: d.row_count for d in more.datasets}
    assert sizes["train"] == len(plain.train)


def test_variants_of_two_texts_together(write_rows: Write, tmp_path: Path) -> None:
    """A variant was known by its first text alone: of rows that share one, only the first got any, and none was held
    against the held-out rows."""
    rows = [
        {"text": f"the bird number {n} sings", "pair": f"claim {i}", "label": label}
        for n in range(10)
        for i, label in enumerate(("yes", "no", "maybe"))
    ]
    write_rows(rows)
    augmented = {"copies": 1, "templates": ["It is said: {question}"]}
    data = Data.model_validate_json(json.dumps({"path": "rows.jsonl", "augment": augmented}))
    parts = load(data, tmp_path, 0, ("labelled",))
    variants = [row for row in parts.train if "variant" in row.place]
    assert len(parts.train) == 2 * len(variants)
    assert all(row.record["text"].startswith("It is said: the bird") for row in variants)
    assert {row.key for row in variants}.isdisjoint(row.key for row in parts.test)
    first = variants[0]
    taken = {replace(first, question=[first.record["text"], first.record["pair"]]).key}
    originals = [row for row in parts.train if "variant" not in row.place]
    assert data.augment is not None
    assert len(augment(originals, taken, data.augment, 0)) == len(parts.train) - 1


def test_answers_to_one_question_share_its_variants(write_rows: Write, tmp_path: Path) -> None:
    """Of a good and a bad answer to one question only the first was told in other words."""
    rows = [
        {"prompt": f"say {i}", "completion": word, "label": word == "please"}
        for i in range(20)
        for word in ("please", "now")
    ]
    write_rows(rows)
    augmented = {"copies": 2, "templates": ["{question}!", "Well: {question}"]}
    data = Data.model_validate_json(
        json.dumps({"path": "rows.jsonl", "augment": augmented, "splits": NONE_HELD_OUT})
    )
    variants = [
        row for row in load(data, tmp_path, 0, ("unpaired",)).train if "," in row.place[-11:]
    ]
    said = Counter(row.record["label"] for row in variants)
    assert said[True] == said[False] > 20
    assert len({row.whole_key for row in variants}) == len(variants)


def test_a_variant_that_is_a_question_already_is_not_made(write_rows: Write) -> None:
    some = split(write_rows, asked(["hi", "Say: hi"]), splits=NONE_HELD_OUT).train
    config = Augment(templates=("Say: {question}",))
    made = augment(some, set(), config, 0)
    assert [row.prompt[0]["content"] for row in made] == ["hi", "Say: hi", "Say: Say: hi"]  # type: ignore[index]


@pytest.mark.parametrize("given", [{}, {"templates": ["no place"]}])
def test_an_augmentation_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give `templates`|must contain"):
        Augment.model_validate_json(json.dumps(given))


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"columns": {"chosen": "better"}}, "data.columns.chosen: format instruction has no such"),
        ({"revision": "main"}, "data.revision is for a data set, and rows.jsonl is a file"),
        ({"format": "prompt_completion", "template": "Q: {instruction}"}, "data.template is for"),
        ({"format": "tagged", "system": "Be brief."}, "data.system needs a chat"),
    ],
)
def test_a_key_that_would_have_no_effect_is_refused(
    write_rows: Write, given: dict[str, Any], part: str
) -> None:
    """They were read and passed over."""
    path = write_rows(asked(["how?", "why?"]))
    data = Data.model_validate_json(json.dumps({"path": path.name} | given))
    formats = ("instruction", "prompt_completion", "tagged")
    with pytest.raises(DataError) as caught:
        load(data, path.parent, 0, formats)
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("row", "format_name", "data", "part"),
    [
        ({"text": "plain"}, "text", {"labels": ["a"]}, "format text has no labels"),
        ({"text": "plain"}, "text", {"labels": "any"}, "says that answers are no labels"),
        ({"text": "a", "label": "b"}, "labelled", {"labels": "any"}, "the format is labelled"),
        ({"text": "plain"}, "text", {"augment": {"typos": 0.5}}, "format text asks none"),
        (
            {"words": ["a"], "tags": ["O"]},
            "tagged",
            {"augment": {"typos": 0.5}},
            "format tagged asks none",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "preference",
            {"labels": ["b", "c"]},
            "format preference has no labels",
        ),
    ],
)
def test_a_key_that_says_nothing_to_a_format(
    write_rows: Write,
    tmp_path: Path,
    row: dict[str, Any],
    format_name: str,
    data: dict[str, Any],
    part: str,
) -> None:
    write_rows([row] * 10)
    asked_for = Data.model_validate_json(json.dumps({"path": "rows.jsonl"} | data))
    with pytest.raises(DataError) as caught:
        load(asked_for, tmp_path, 0, (format_name,))
    assert part in str(caught.value)


def test_a_share_of_a_split_that_has_rows_of_its_own(write_rows: Write, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"instruction": "q", "output": "a"}\n')
    with pytest.raises(DataError, match=r"splits\.test: the test rows are those of own\.jsonl"):
        split(write_rows, asked([f"q {n}" for n in range(9)]), test=own.name, splits={"test": 0.2})


def test_a_typing_error_spares_the_answers_word_beside_a_sign(write_rows: Write) -> None:
    """The answer's word was changed where the answer has a sign after it: only `paris.` was spared, not `paris`."""
    some = split(
        write_rows,
        [
            {"instruction": f"{n} from london to (paris)?", "output": f"“Paris.” {n}"}
            for n in range(20)
        ],
        splits=NONE_HELD_OUT,
    ).train
    made = augment(some, set(), Augment(copies=3, typos=0.9), 0)
    said = [row.asked for row in made]
    assert all("(paris)" in text for text in said)
    assert any("london" not in text for text in said)


def test_typing_errors_tear_no_marks_off() -> None:
    prompt = [{"role": "user", "content": "नमस्कार cafe\u0301s"}]
    row = Example("p", {"prompt": prompt}, prompt, "x", prompt)
    assert augment([row], set(), Augment(copies=5, typos=0.9), 0) == [row]


def test_variants_of_one_question_about_two_texts(write_rows: Write, tmp_path: Path) -> None:
    """A variant was known by its question without the text that it is about, so only the first row got any."""
    rows = [
        {"question": "which town is meant", "context": f"they met in {town}", "answer": town}
        for town in ("Rome", "Oslo", "Bern")
    ]
    write_rows(rows)
    augmented = {"copies": 1, "templates": ["Say: {question}"]}
    data = Data.model_validate_json(
        json.dumps({"path": "rows.jsonl", "augment": augmented, "splits": NONE_HELD_OUT})
    )
    made = load(data, tmp_path, 0, ("span",)).train
    assert [row.is_variant for row in made] == [False, True] * 3
    assert len({row.key for row in made}) == 6


def test_variants_that_are_left_out_are_no_rows_of_the_file(write_rows: Write) -> None:
    """They were subtracted from the file's rows: the lineage said -20 rows and the like."""
    augmented = {"copies": 3, "templates": ["1 {question}", "2 {question}", "3 {question}"]}
    parts = split(
        write_rows, asked([f"q {n}" for n in range(10)]), splits=NONE_HELD_OUT, augment=augmented
    )
    assert len(parts.train) > 20

    def lengths(rows: list[Example]) -> list[int]:
        return [99 if row.is_variant or row.place == "rows.jsonl, line 1" else 9 for row in rows]

    assert [d.row_count for d in within(parts, 32, True, lengths).datasets] == [9]
