"""What a format owes: it checks a row and makes an `Example` of it, which is what TRL and the evaluation are given.

The tokens that carry loss are TRL's business: everything after a prompt (`prompt` and `completion`), all that the
assistant says (`messages`), or all (`text`). Knows nothing about files and tokens.
"""

from __future__ import annotations

import hashlib
import json
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
    record: dict[str, Any]  # a row of the data set that the objective's trainer is given
    prompt: Text  # what the evaluation asks; empty for plain text, which asks nothing
    answer: str  # what it expects
    key: str  # equal for equal questions, so that none is both learnt and tested

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


class Format(Protocol):
    required: ClassVar[Names]
    optional: ClassVar[Names]

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        """`values` holds the format's own columns. Raises DataError naming the row."""
        ...


def text(row: Row, column: str, value: Any, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise DataError(f"{row.place}: {column} must be text, not {json.dumps(value)[:40]}")
    if not value.strip() and not may_be_empty:
        raise DataError(f"{row.place}: {column} is empty; give it text or take the row out")
    return value


def messages_of(row: Row, column: str, value: Any) -> Messages:
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
    return {"role": value["role"], "content": text(row, f"{column}.content", value["content"])}


def with_system(messages: Messages, system: str | None) -> Messages:
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def question_key(question: Text) -> str:
    """Case and blank space make no other question."""
    canonical = " ".join(
        json.dumps(question, sort_keys=True, ensure_ascii=False).casefold().split()
    )
    return hashlib.sha256(canonical.encode()).hexdigest()
