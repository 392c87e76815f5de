"""Rows become examples, or are refused with their place."""

from __future__ import annotations

from typing import Any

import pytest

from lorry_trainer.errors import DataError
from lorry_trainer.formats import examples
from lorry_trainer.formats.contract import Example
from lorry_trainer.formats.find import find_format
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data

DATA = Data(path="x")


def one(values: dict[str, Any], data: Data = DATA) -> Example:
    row = Row("f.jsonl, line 9", values)
    return examples([row], find_format([row], data, OBJECTIVES["sft"]), data)[0]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_an_instruction_with_a_context_is_a_chat_of_two_turns() -> None:
    example = one({"instruction": "Sort.", "context": "b a", "output": "a b"})
    assert example.prompt == [user("Sort.\n\nb a")]
    assert example.record == {"prompt": example.prompt, "completion": [assistant("a b")]}
    assert example.answer == "a b"


@pytest.mark.parametrize("context", [{}, {"context": ""}, {"context": None}])
def test_an_instruction_without_a_context(context: dict[str, Any]) -> None:
    assert one({"instruction": "Say {x}.", "output": "x"} | context).prompt == [user("Say {x}.")]


def test_other_names_for_columns() -> None:
    assert one({"instruction": "a", "input": "b", "output": "c"}).prompt == [user("a\n\nb")]
    mapped = Data.model_validate(
        {"path": "x", "columns": {"instruction": "text", "output": "iso"}, "system": "Be exact."}
    )
    example = one({"text": "a", "iso": "c"}, mapped)
    assert example.prompt == [{"role": "system", "content": "Be exact."}, user("a")]


def test_a_chat_is_asked_up_to_its_last_answer() -> None:
    turns = [user("a"), assistant("b"), user("c"), assistant("d")]
    example = one({"messages": turns})
    assert example.record == {"messages": turns}
    assert (example.prompt, example.answer) == (turns[:-1], "d")


def test_prompt_and_completion_as_text_or_as_chat() -> None:
    assert one({"prompt": "2+2=", "completion": "4"}).record == {
        "prompt": "2+2=",
        "completion": "4",
    }
    chat = one({"prompt": [user("a")], "completion": [assistant("b")]})
    assert (chat.prompt, chat.answer) == ([user("a")], "b")


def test_equal_questions_have_equal_keys() -> None:
    same = [
        one({"instruction": q, "output": o}).key for q, o in [("Hi  there", "a"), ("hi there", "b")]
    ]
    assert same[0] == same[1] != one({"instruction": "hi", "output": "a"}).key


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"instruction": "", "output": "b"}, "instruction is empty"),
        ({"instruction": "a", "output": "  "}, "output is empty"),
        ({"instruction": "a", "output": {"x": 3}}, "output must be text, not {"),
        ({"instruction": "a", "output": None}, "output is empty"),
        ({"instruction": "a", "context": [1], "output": "b"}, "context must be text"),
        ({"messages": []}, "must be a list of messages"),
        ({"messages": "hello"}, "must be a list of messages"),
        ({"messages": [user("a")]}, "must end with the assistant's"),
        ({"messages": [assistant("a")]}, "assistant speaks first"),
        ({"messages": [user("a"), {"role": "bot", "content": "b"}]}, "messages[1] has role 'bot'"),
        ({"messages": ["hi"]}, "messages[0] must be an object with role and content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is empty"),
        ({"messages": [user("a"), assistant("")]}, "messages[1].content is empty"),
        ({"prompt": "a", "completion": [assistant("b")]}, "completion must be text"),
        (
            {"prompt": [user("a")], "completion": [user("b")]},
            "completion must be one message of the",
        ),
        ({"words": "a"}, "columns words fit no format"),
        ({"prompt": "a", "completion": "b", "messages": []}, "fit messages and prompt_completion"),
    ],
)
def test_bad_rows_are_named(values: dict[str, Any], part: str) -> None:
    with pytest.raises(DataError) as caught:
        one(values)
    assert str(caught.value).startswith("f.jsonl, line 9: ")
    assert part in str(caught.value)


def test_a_text_beside_other_columns_does_not_count() -> None:
    """Alpaca's own data set has the rendered prompt as `text` beside instruction and output."""
    assert one({"instruction": "a", "output": "b", "text": "### a"}).prompt == [user("a")]
    assert one({"text": "once"}).record == {"text": "once"}


def test_a_later_row_without_a_column() -> None:
    rows = [Row("line 1", {"instruction": "a", "output": "b"}), Row("line 2", {"instruction": "a"})]
    with pytest.raises(DataError, match="line 2: no column 'output'; it has instruction"):
        examples(rows, "instruction", DATA)


def test_a_mapped_column_that_is_not_there() -> None:
    mapped = Data.model_validate(
        {"path": "x", "format": "instruction", "columns": {"context": "body"}}
    )
    with pytest.raises(DataError, match="no column 'body'"):
        one({"instruction": "a", "output": "b"}, mapped)
