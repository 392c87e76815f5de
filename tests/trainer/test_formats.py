"""Rows become examples, or are refused with their place."""

from __future__ import annotations

from typing import Any

import pytest

from lorry_trainer.errors import DataError, RecipeError
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


def test_places_in_the_data_are_text() -> None:
    """`{context}` within an instruction was replaced by the context, and `{instruction}` within a context could be."""
    row = {"instruction": "Fill {context} in", "context": "{instruction}", "output": "x"}
    assert one(row).prompt == [user("Fill {context} in\n\n{instruction}")]


def test_a_template_that_leaves_the_context_out() -> None:
    """The context was dropped in silence, while a note said that it is asked about."""
    short = Data(path="x", template="Q: {instruction}", unfit="skip")
    assert one({"instruction": "a", "context": " ", "output": "b"}, short).prompt == [user("Q: a")]
    with pytest.raises(RecipeError, match=r"f\.jsonl, line 9 has a context, and data\.template no"):
        one({"instruction": "a", "context": "c", "output": "b"}, short)


def one_of(format_name: str, values: dict[str, Any]) -> Example:
    return examples([Row("f.jsonl, line 9", values)], format_name, DATA)[0]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (["42", "43"], "42"),
        ({"text": ["x"], "answer_start": [0]}, "x"),
        (42, "42"),
        (0.5, "0.5"),
        (True, "true"),
        (None, ""),
        (float("nan"), ""),
        ([], ""),
        (" ", ""),
    ],
)
def test_right_answers_of_every_kind(answer: Any, right: str) -> None:
    """They were written as Python writes them: ['42'], {'text': 'x'}, nan, True."""
    example = one_of("question", {"prompt": "q", "answer": answer})
    assert example.record["answer"] == example.answer == right


def test_a_right_answer_that_is_none() -> None:
    with pytest.raises(DataError, match=r"answer must be text, not \{"):
        one_of("question", {"prompt": "q", "answer": {"x": 1}})


@pytest.mark.parametrize(
    ("value", "good"),
    [(v, True) for v in (True, 1, 1.0, "1", "Yes", "y", "good", " TRUE ")]
    + [(v, False) for v in (False, 0, 0.0, "0", "no", "N", "Bad", "false")],
)
def test_verdicts(value: Any, good: bool) -> None:
    """1.0 and yes were refused."""
    row = {"prompt": "q", "completion": "a", "label": value}
    assert one_of("unpaired", row).record["label"] is good


@pytest.mark.parametrize("value", [2, 0.5, float("nan"), None, "maybe", [1]])
def test_what_is_no_verdict(value: Any) -> None:
    with pytest.raises(DataError, match="label must be true or false"):
        one_of("unpaired", {"prompt": "q", "completion": "a", "label": value})


def test_labels_that_are_whole_numbers_as_floats() -> None:
    """pandas makes them so where one is missing."""
    assert one_of("labelled", {"text": "q", "label": 1.0}).answer == "1"
    for odd in (0.5, float("nan"), float("inf")):
        with pytest.raises(DataError, match="label must be one name or a whole number"):
            one_of("labelled", {"text": "q", "label": odd})
