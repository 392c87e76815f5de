"""What a format owes: it checks a row and makes an `Example` of it, which is what TRL and the evaluation are given.

The tokens that carry loss are TRL's business: everything after a prompt (`prompt` and `completion`), all that the
assistant says (`messages`), or all (`text`). Knows nothing about files and tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

from lorry_trainer.errors import DataError
from lorry_trainer.metrics import normalised
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data

Messages = list[dict[str, str]]
Text = str | Messages  # plain text, or a chat for the base's template

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Example:
    place: str
    record: dict[str, Any]  # a row of the data set that the objective's trainer is given
    prompt: Text  # what the evaluation asks; empty for plain text, which asks nothing
    answer: str  # what it expects
    question: Text | list[str]  # all that makes it another question: a chat up to its first answer
    is_variant: bool = False  # made of a row of the data, and none itself

    @cached_property
    def key(self) -> str:
        """Equal for equal questions, so that none is both learnt and tested."""
        return digest_of(folded(self.question))

    @property
    def whole_key(self) -> str:
        """Equal for equal questions that have the same answers to the letter."""
        given = [self.record[name] for name in _ANSWERS if name in self.record]
        if "messages" in self.record:
            given = self.record["messages"][len(self.question) :]
        return digest_of([folded(self.record), given or self.answer])

    @property
    def asked(self) -> str:
        """The prompt in words: of a chat, its last message."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    @property
    def whole(self) -> Text:
        """All that the base reads in training."""
        for column in ("messages", "text"):
            if column in self.record:
                return self.record[column]  # type: ignore[no-any-return]
        answers = (self.record[name] for name in ("completion", "chosen") if name in self.record)
        answer = next(answers, None)
        return self.prompt if answer is None else self.prompt + answer


Names = dict[
    str, tuple[str, ...]
]  # column -> what it is called when the recipe does not say, in order of preference

SYSTEM = ("system", "system_prompt")


class Format(Protocol):
    required: ClassVar[Names]
    optional: ClassVar[Names]

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        """`values` holds the format's own columns. Raises DataError naming the row."""
        ...


def text(row: Row, column: str, value: Any, *, may_be_empty: bool = False) -> str:
    """A number is text as JSON writes it."""
    if value is None or value != value:  # as JSON has null, and pandas NaN
        value = ""
    if isinstance(value, bool | int | float):
        value = json.dumps(value)
    if not isinstance(value, str):
        raise DataError(f"{row.place}: {column} must be text, not {_shown(value)}")
    if not value.strip() and not may_be_empty:
        raise DataError(f"{row.place}: {column} is empty; give it text or take the row out")
    return value


def first_of(answer: Any) -> Any:
    """The first of several answers, also as SQuAD has them; None where there is none."""
    if isinstance(answer, dict) and "text" in answer:
        answer = answer["text"]
    if isinstance(answer, list):
        return answer[0] if answer else None
    return answer


def named(row: Row, column: str, value: str, data: Data) -> str:
    """A label's name: a number stands for the name at its place in `data.labels`."""
    if not isinstance(data.labels, tuple) or value in data.labels:
        return value
    if not re.fullmatch(
        r"\d+(\.0+)?", value
    ):  # 1.0 is what pandas makes of 1 where other rows have none
        return value
    at = int(float(value))
    if at >= len(data.labels):
        raise DataError(
            f"{row.place}: {column} is {value}, and data.labels has names for 0 to {len(data.labels) - 1}"
        )
    return data.labels[at]


def messages_of(row: Row, column: str, value: Any) -> Messages:
    """A list of messages, or the same as JSON: of OpenAI's (`role`, `content`) or ShareGPT's (`from`, `value`)."""
    if isinstance(value, str) and value.lstrip().startswith("["):  # as CSV has it
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{row.place}: {column} is not JSON: {error}") from error
    if not isinstance(value, list) or not value:
        raise DataError(f"{row.place}: {column} must be a list of messages, not {_shown(value)}")
    return [_message(row, f"{column}[{i}]", message) for i, message in enumerate(value)]


def _message(row: Row, column: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise DataError(f"{row.place}: {column} must be an object with role and content")
    said = {name: it for name, it in value.items() if it is not None}
    if said.keys() & {"tool_calls", "function_call"} or said.get("role") in ("tool", "function"):
        raise DataError(
            f"{row.place}: {column} is a call of a tool or its answer, which cannot be learnt as such; write it as "
            "text into content, or take the row out"
        )
    role = said.pop("role", None) or said.pop("from", None)
    content = said.pop("content", None) or said.pop("value", None)
    said.pop("name", None)
    # What others say is not learnt, whatever its weight.
    if said.pop("weight", 1) != 1 and _ALIASES.get(role, role) == "assistant":
        raise DataError(
            f"{row.place}: {column} has a weight, and all that the assistant says is learnt; take the row out, or "
            "give it as prompt and completion"
        )
    if said:
        raise DataError(
            f"{row.place}: {column} has {', '.join(said)}; a message is role and content, and nothing else is learnt"
        )
    if role is None:
        raise DataError(f"{row.place}: {column} must be an object with role and content")
    known = _ALIASES.get(role, role)
    if known not in ROLES:
        raise DataError(f"{row.place}: {column} has role {role!r}; use {', '.join(ROLES)}")
    return {"role": known, "content": text(row, f"{column}.content", _joined(row, column, content))}


# as ShareGPT and OpenAI's later models call them
_ALIASES = {"human": "user", "gpt": "assistant", "developer": "system"}


def _joined(row: Row, column: str, content: Any) -> Any:
    """OpenAI's parts of a content as one text."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise DataError(
                f"{row.place}: {column}.content has a part of type {kind!r}, and text alone is learnt"
            )
    return "".join(text(row, column, part.get("text"), may_be_empty=True) for part in content)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)[:40]


def system_of(row: Row, value: Any, data: Data) -> str | None:
    """The row's own system message, or that of the recipe."""
    return text(row, "system", value, may_be_empty=True).strip() or data.system


def with_system(messages: Messages, system: str | None) -> Messages:
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


# What a record may hold as an answer, as formats call it.
_ANSWERS = ("completion", "chosen", "rejected", "label", "tags", "answer", "start")


def folded(value: Any) -> Any:
    """With all its texts as they are compared: case, blank space and ways to compose a letter make no other one."""
    if isinstance(value, str):
        return normalised(value)
    if isinstance(value, list):
        return [folded(item) for item in value]
    if isinstance(value, dict):
        return {name: folded(item) for name, item in value.items()}
    return value


def digest_of(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
