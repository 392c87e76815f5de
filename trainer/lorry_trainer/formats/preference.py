"""A prompt with an answer that was chosen and one that was rejected: plain text as it stands, or lists of messages."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import (
    Example,
    Names,
    Text,
    messages_of,
    question_key,
    text,
    with_system,
)
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Preference:
    required: ClassVar[Names] = {
        "prompt": ("prompt", "question"),
        "chosen": ("chosen",),
        "rejected": ("rejected",),
    }
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt = prompt_of(row, values["prompt"], data)
        chosen, rejected = (
            answer_to(prompt, row, column, values[column]) for column in ("chosen", "rejected")
        )
        if chosen == rejected:
            raise DataError(f"{row.place}: chosen and rejected are the same; nothing is preferred")
        record = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        return Example(row.place, record, prompt, words_of(chosen), question_key(prompt))


class Unpaired:
    """A prompt, an answer, and whether it is a good one."""

    required: ClassVar[Names] = {
        "prompt": ("prompt", "question"),
        "completion": ("completion", "answer"),
        "label": ("label", "is_correct", "good"),
    }
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt = prompt_of(row, values["prompt"], data)
        completion = answer_to(prompt, row, "completion", values["completion"])
        record = {
            "prompt": prompt,
            "completion": completion,
            "label": _verdict(row, values["label"]),
        }
        return Example(row.place, record, prompt, words_of(completion), question_key(prompt))


def prompt_of(row: Row, value: Any, data: Data) -> Text:
    if isinstance(value, str):
        if data.system:
            raise DataError(
                "data.system needs a chat, and `prompt` is plain text here; put it into the prompt"
            )
        return text(row, "prompt", value)
    messages = with_system(messages_of(row, "prompt", value), data.system)
    if messages[-1]["role"] != "user":
        raise DataError(f"{row.place}: prompt must end with a user's message")
    return messages


def answer_to(prompt: Text, row: Row, column: str, value: Any) -> Text:
    """What follows the prompt, in the prompt's own form; plain words answer a chat as the assistant."""
    if isinstance(prompt, str):
        return text(row, column, value)
    if isinstance(value, str):
        return [{"role": "assistant", "content": text(row, column, value)}]
    said = messages_of(row, column, value)
    if len(said) != 1 or said[0]["role"] != "assistant":
        raise DataError(f"{row.place}: {column} must be one message of the assistant")
    return said


def words_of(answer: Text) -> str:
    return answer if isinstance(answer, str) else answer[-1]["content"]


def _verdict(row: Row, value: Any) -> bool:
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    key = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(key, bool | int | str) or key not in known:
        raise DataError(f"{row.place}: label must be true or false, not {value!r}")
    return known[key]
