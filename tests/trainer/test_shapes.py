"""Rows in the shapes that data sets have elsewhere are learnt as they are, or refused with a way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorry_trainer.data import Examples, load
from lorry_trainer.errors import DataError
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.recipe import Data

Write = Callable[..., Path]
Values = dict[str, Any]


@pytest.fixture
def shaped(write_rows: Write) -> Callable[..., Examples]:
    """All rows learnt, for an objective."""

    def read(*rows: Values, objective: str = "sft", **data: Any) -> Examples:
        path = write_rows(list(rows))
        held_out = {"validation": 0, "test": 0}
        given = {"path": path.name, "splits": held_out} | data
        return load(
            Data.model_validate_json(json.dumps(given)), path.parent, 0, OBJECTIVES[objective]
        )

    return read


def user(content: str) -> Values:
    return {"role": "user", "content": content}


def assistant(content: str) -> Values:
    return {"role": "assistant", "content": content}


def system(content: str) -> Values:
    return {"role": "system", "content": content}


QA = ([user("q")], "a")


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"question": "q", "response": "a", "id": 7}, *QA),
        ({"id": 7, "input": "q", "output": "a"}, *QA),
        ({"idx": 1, "message": "q", "kind": "a"}, *QA),
        ({"Question": "q", "Answer": "a", "Source": "x"}, *QA),
        ({"prompt": "q", "response": "a"}, *QA),
        ({"text": "q", "label": 1}, [user("q")], "1"),
        ({"sentence": "q", "label": 0, "idx": 5}, [user("q")], "0"),
        ({"text": "q", "label": "a", "label_text": "x"}, *QA),
        ({"premise": "p", "hypothesis": "h", "label": "a"}, [user("p\n\nh")], "a"),
        ({"question": "q", "answer": 42}, [user("q")], "42"),
        ({"question": "q", "answer": 0.5}, [user("q")], "0.5"),
        (
            {"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [0]}},
            [user("q\n\nc")],
            "a",
        ),
        (
            {"system_prompt": "s", "question": "q", "response": "a"},
            [system("s"), user("q")],
            "a",
        ),
        ({"translation": {"de": "q", "en": "a"}}, *QA),
    ],
)
def test_questions_and_answers(
    shaped: Callable[..., Examples], row: Values, prompt: Any, answer: str
) -> None:
    """`input` was asked twice, as its own context; a text's numeric label was passed over and the text learnt."""
    (example,) = shaped(row).train
    assert (example.prompt, example.answer) == (prompt, answer)


CHAT = [user("q"), assistant("a")]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            CHAT,
        ),
        ({"messages": CHAT, "system": "s"}, [system("s"), *CHAT]),
        ({"messages": [{"role": "developer", "content": "s"}, *CHAT]}, [system("s"), *CHAT]),
        ({"messages": [user("q") | {"name": "Jo"}, assistant("a") | {"weight": 1}]}, CHAT),
        ({"messages": [user("q") | {"weight": 0}, assistant("a")]}, CHAT),
        ({"messages": [user("q"), assistant("a") | {"tool_calls": None}]}, CHAT),
        (
            {"messages": [user("q") | {"content": [{"type": "text", "text": "q"}]}, CHAT[1]]},
            CHAT,
        ),
        ({"messages": json.dumps(CHAT)}, CHAT),
    ],
)
def test_conversations(shaped: Callable[..., Examples], row: Values, messages: Any) -> None:
    assert shaped(row).train[0].record == {"messages": messages}


PREFERRED = ([user("q")], [assistant("a")], [assistant("b")])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"chosen": CHAT, "rejected": [user("q"), assistant("b")]}, PREFERRED),
        ({"prompt": "q", "chosen": CHAT, "rejected": [user("q"), assistant("b")]}, PREFERRED),
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a",
                "rejected": "\n\nHuman: q\n\nAssistant: b",
            },
            PREFERRED,
        ),
        (
            {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
            ([system("s"), user("q")], *PREFERRED[1:]),
        ),
        (
            {"instruction": "q", "chosen_response": "a", "rejected_response": "b"},
            ("q", "a", "b"),
        ),
    ],
)
def test_preferences(shaped: Callable[..., Examples], row: Values, expected: Any) -> None:
    """Whole chats, as UltraFeedback and HH have them, were refused; a system message was passed over."""
    record = shaped(row, objective="dpo").train[0].record
    assert (record["prompt"], record["chosen"], record["rejected"]) == expected


def test_prompts_are_all_chats_where_the_data_has_system_messages(
    shaped: Callable[..., Examples],
) -> None:
    """Orca's pairs have an empty one here and there."""
    rows = [
        {"system": said, "question": f"q{i}", "chosen": "a", "rejected": "b"}
        for i, said in enumerate(["s", "", None])
    ]
    assert [row.prompt for row in shaped(*rows, objective="dpo").train] == [
        [system("s"), user("q0")],
        [user("q1")],
        [user("q2")],
    ]


def test_plain_prompts_among_chats(shaped: Callable[..., Examples]) -> None:
    """pyarrow spoke of mixing list and non-list."""
    rows = [
        {"prompt": "q", "completion": "a"},
        {"prompt": [user("p")], "completion": [assistant("a")]},
    ]
    with pytest.raises(
        DataError, match=r"line 1 has plain text for a prompt, and rows\.jsonl, line"
    ):
        shaped(*rows)


def test_numbers_for_labels_have_names_in_the_recipe(shaped: Callable[..., Examples]) -> None:
    names = ["O", "B-place"]
    tagged = shaped(
        {"tokens": ["in", "Rome"], "ner_tags": [0, 1]}, objective="tokens", labels=names
    )
    assert tagged.train[0].record["tags"] == names
    rows = [{"text": f"{i}", "label": str(i % 2)} for i in range(20)]
    labelled = shaped(*rows, objective="classification", labels=["neg", "pos"])
    assert {row.answer for row in labelled.train} == {"neg", "pos"}
    assert {row.answer for row in shaped(*rows, labels=["neg", "pos"]).train} == {"neg", "pos"}
    with pytest.raises(DataError, match=r"label is 1, and data\.labels has names for 0 to 0"):
        shaped(*rows, objective="classification", labels=["neg"])


def test_tags_that_mark_no_spans_are_told(shaped: Callable[..., Examples]) -> None:
    """Numbers for tags gave a span F1 of 0, whatever was learnt."""
    read = shaped({"tokens": ["in", "Rome"], "ner_tags": [0, 5]}, objective="tokens")
    assert any("span_f1 stays 0: set evaluation.metric: tag_accuracy" in n for n in read.notes)


def test_what_was_taken_and_what_was_passed_over_is_told(
    shaped: Callable[..., Examples],
) -> None:
    """Columns that no format reads, a system message among them, were passed over without a word."""
    asked = shaped({"q_id": 1, "question": "q", "context": "c", "answer": "a", "source": "x"})
    assert asked.notes[0] == (
        "rows.jsonl: question is asked about context, answer answered; not used: q_id, source"
    )
    assert shaped({"messages": CHAT, "meta": 1}).notes == ["rows.jsonl: not used: meta"]
    assert shaped({"instruction": "q", "output": "a"}).notes == []


def test_columns_within_an_object_are_named_with_a_dot(shaped: Callable[..., Examples]) -> None:
    row = {"data": {"question": "q", "reply": {"text": "a"}, "said": "a"}}
    with pytest.raises(DataError, match=r"columns data\.question, data\.reply, data\.said fit no"):
        shaped(row)
    columns = {"instruction": "data.question", "output": "data.said"}
    assert shaped(row, columns=columns).train[0].answer == "a"
    both = shaped(
        {"translation": {"de": "q", "en": "a"}},
        columns={"source": "translation.en", "target": "translation.de"},
    )
    assert both.train[0].answer == "q"


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"chosen": "x", "rejected": "y"}, "they fit `objective: dpo or orpo or reward`"),
        ({"tokens": ["a"], "ner_tags": [1]}, "they fit `objective: tokens`"),
        ({"a": "x", "b": "y", "c": "z"}, "name yours under data.columns, as in `columns: {"),
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, "a place among choices"),
        ({"messages": [user("q"), {"role": "tool", "content": "4"}]}, "a call of a tool or its"),
        ({"messages": [user("q"), assistant("") | {"tool_calls": [{}]}]}, "a call of a tool"),
        ({"messages": [user("q"), assistant("a") | {"weight": 0}]}, "messages[1] has a weight"),
        ({"messages": [user("q"), assistant("a") | {"mood": "x"}]}, "messages[1] has mood"),
        (
            {"messages": [user("q") | {"content": [{"type": "image_url"}]}, assistant("a")]},
            "a part of type 'image_url'",
        ),
    ],
)
def test_what_cannot_be_learnt_as_it_is(
    shaped: Callable[..., Examples], row: Values, part: str
) -> None:
    with pytest.raises(DataError) as caught:
        shaped(row)
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"chosen": "x", "rejected": "y"}, "no prompt, and chosen and rejected are no whole chats"),
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("p"), assistant("b")]},
            "part before their last messages",
        ),
    ],
)
def test_preferences_that_are_none(shaped: Callable[..., Examples], row: Values, part: str) -> None:
    with pytest.raises(DataError) as caught:
        shaped(row, objective="dpo")
    assert part in caught.value.message


def test_one_fault_in_many_rows_is_one_line(shaped: Callable[..., Examples]) -> None:
    rows = [{"question": f"q {i}", "answer": None if i > 2 else "a"} for i in range(12)]
    with pytest.raises(DataError) as caught:
        shaped(*rows)
    assert caught.value.message == (
        "rows.jsonl, line 4: output is empty; give it text or take the row out (and so in 8 more rows)\n"
        "Mend these rows, or leave them out with data.unfit: skip"
    )
    kept = shaped(*rows, unfit="skip")
    assert len(kept.train) == 3
    assert kept.notes[1].startswith("9 rows do not fit, left out (rows.jsonl, line 4: output is")
    with pytest.raises(DataError, match="output is empty"):
        shaped(*rows[3:], unfit="skip")


def test_good_and_bad_answers_have_their_share_in_every_split(
    shaped: Callable[..., Examples],
) -> None:
    """Few test rows were of one kind by chance, and the run was refused."""
    rows = [{"prompt": f"q {i}", "completion": "a", "label": bool(i % 2)} for i in range(40)]
    parts = shaped(*rows, objective="kto", splits={})
    for part in (parts.train, parts.validation, parts.test):
        assert {row.record["label"] for row in part} == {True, False}


def test_columns_of_several_data_sets_put_together(shaped: Callable[..., Examples]) -> None:
    """A row whose `question` is null was refused though its `prompt` was there."""
    rows = [
        {"question": "q1", "prompt": None, "answer": "a", "response": ""},
        {"question": "", "prompt": "q2", "answer": float("nan"), "response": "b"},
    ]
    read = shaped(*rows)
    assert [(row.asked, row.answer) for row in read.train] == [("q1", "a"), ("q2", "b")]
    assert read.notes == ["rows.jsonl: question is asked, answer answered"]


@pytest.mark.parametrize(
    ("row", "objective", "part"),
    [
        ({"instruction": None, "input": "c", "output": "a"}, "sft", "instruction is empty"),
        ({"text": "q", "label": None, "topic": "x"}, "classification", "label must be one name"),
    ],
)
def test_an_empty_column_whose_place_no_other_takes(
    shaped: Callable[..., Examples], row: Values, objective: str, part: str
) -> None:
    with pytest.raises(DataError, match=part):
        shaped(row, objective=objective)
