"""Formats: what the columns of a row mean, and what TRL and the evaluation are given for it.

A format is one class and one line in `FORMATS`. It checks a row and makes an `Example` of it. The tokens that carry
loss are TRL's business: everything after a prompt (`prompt` and `completion`), or all that the assistant says
(`messages`). Knows nothing about files and tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from lorry_trainer.errors import DataError
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data

Messages = list[dict[str, str]]
Text = str | Messages  # plain text, or a chat for the base's template

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Example:
    place: str
    record: dict[str, Text]  # a row of the data set that TRL is given
    prompt: Text  # what the evaluation asks
    answer: str  # what it expects
    key: str  # equal for equal questions, so that none is both learnt and tested

    @property
    def whole(self) -> Text:
        """All that the base reads in training."""
        if "messages" in self.record:
            return self.record["messages"]
        return self.record["prompt"] + self.record["completion"]  # type: ignore[operator]


Names = dict[
    str, tuple[str, ...]
]  # column -> what it is called when the recipe does not say, in order of preference


class Format(Protocol):
    required: ClassVar[Names]
    optional: ClassVar[Names]

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        """`values` holds the format's own columns. Raises DataError naming the row."""
        ...


class Instruction:
    required: ClassVar[Names] = {
        "instruction": ("instruction",),
        "output": ("output", "response", "answer"),
    }
    optional: ClassVar[Names] = {"context": ("context", "input")}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        asked = _text(row, "instruction", values["instruction"])
        context = _text(row, "context", values.get("context") or "", may_be_empty=True)
        # replace, not format: braces in the data are text
        said = data.template.replace("{instruction}", asked).replace("{context}", context).strip()
        answer = _text(row, "output", values["output"])
        prompt = _with_system([{"role": "user", "content": said}], data.system)
        record: dict[str, Text] = {
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": answer}],
        }
        return Example(row.place, record, prompt, answer, _key(prompt))


class Chat:
    required: ClassVar[Names] = {"messages": ("messages", "conversations")}
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        messages = _with_system(_messages(row, "messages", values["messages"]), data.system)
        first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), None)
        if first is None or messages[-1]["role"] != "assistant":
            raise DataError(
                f"{row.place}: messages must end with the assistant's, which is what is learnt"
            )
        if first == 0 or all(m["role"] == "system" for m in messages[:first]):
            raise DataError(
                f"{row.place}: the assistant speaks first; a user's message must come before it"
            )
        return Example(
            row.place,
            {"messages": messages},
            messages[:-1],
            messages[-1]["content"],
            _key(messages[:first]),
        )


class PromptCompletion:
    required: ClassVar[Names] = {"prompt": ("prompt",), "completion": ("completion",)}
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt, completion = values["prompt"], values["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            prompt, completion = _text(row, "prompt", prompt), _text(row, "completion", completion)
            if data.system:
                raise DataError(
                    "data.system needs a chat, and `prompt` is plain text here; put it into the prompt"
                )
            return Example(
                row.place,
                {"prompt": prompt, "completion": completion},
                prompt,
                completion,
                _key(prompt),
            )
        if isinstance(prompt, str) or isinstance(completion, str):
            raise DataError(
                f"{row.place}: prompt and completion must both be text, or both be lists of messages"
            )
        asked = _with_system(_messages(row, "prompt", prompt), data.system)
        said = _messages(row, "completion", completion)
        if len(said) != 1 or said[0]["role"] != "assistant" or asked[-1]["role"] != "user":
            raise DataError(
                f"{row.place}: prompt must end with a user's message, completion be one of the assistant"
            )
        return Example(
            row.place, {"prompt": asked, "completion": said}, asked, said[0]["content"], _key(asked)
        )


FORMATS: dict[str, Format] = {
    "instruction": Instruction(),
    "messages": Chat(),
    "prompt_completion": PromptCompletion(),
}


def examples(rows: Iterable[Row], format_name: str, data: Data) -> list[Example]:
    """All rows as examples. The columns are those of `data.columns`, or else the first usual name that a row has."""
    form = FORMATS[format_name]
    return [form.example(row, _own_columns(row, form, data), data) for row in rows]


def find_format(rows: list[Row], data: Data) -> str:
    """The only format whose columns the first row has. Raises DataError naming the columns when there is not one."""
    if data.format != "auto":
        return data.format
    columns = rows[0].values
    fitting = [
        name
        for name, form in FORMATS.items()
        if all(_find(column, usual, columns, data) for column, usual in form.required.items())
    ]
    if len(fitting) == 1:
        return fitting[0]
    needs = "; ".join(f"{name} needs {', '.join(form.required)}" for name, form in FORMATS.items())
    found = ", ".join(columns)
    if fitting:
        raise DataError(
            f"{rows[0].place}: columns {found} fit {' and '.join(fitting)}; set data.format"
        )
    raise DataError(
        f"{rows[0].place}: columns {found} fit no format ({needs}); name yours under data.columns"
    )


def _find(column: str, usual: tuple[str, ...], present: dict[str, Any], data: Data) -> str | None:
    given: str | None = getattr(data.columns, column)
    return next((name for name in ([given] if given else usual) if name in present), None)


def _own_columns(row: Row, form: Format, data: Data) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for column, usual in (form.required | form.optional).items():
        if (name := _find(column, usual, row.values, data)) is not None:
            own[column] = row.values[name]
        elif column in form.required or getattr(data.columns, column):
            wanted = getattr(data.columns, column) or column
            raise DataError(
                f"{row.place}: no column {wanted!r}; it has {', '.join(row.values) or 'none'}"
            )
    return own


def _text(row: Row, column: str, value: Any, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise DataError(f"{row.place}: {column} must be text, not {json.dumps(value)[:40]}")
    if not value.strip() and not may_be_empty:
        raise DataError(f"{row.place}: {column} is empty; give it text or take the row out")
    return value


def _messages(row: Row, column: str, value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{row.place}: {column} must be a list of messages, not {json.dumps(value)[:40]}"
        )
    return [_message(row, f"{column}[{i}]", message) for i, message in enumerate(value)]


def _message(row: Row, column: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) != {"role", "content"}:
        raise DataError(
            f"{row.place}: {column} must be an object with role and content, and nothing else"
        )
    if value["role"] not in ROLES:
        raise DataError(f"{row.place}: {column} has role {value['role']!r}; use {', '.join(ROLES)}")
    return {"role": value["role"], "content": _text(row, f"{column}.content", value["content"])}


def _with_system(messages: Messages, system: str | None) -> Messages:
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _key(question: Text) -> str:
    """Case and blank space make no other question."""
    canonical = " ".join(
        json.dumps(question, sort_keys=True, ensure_ascii=False).casefold().split()
    )
    return hashlib.sha256(canonical.encode()).hexdigest()
