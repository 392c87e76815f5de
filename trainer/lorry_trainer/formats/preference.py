"""A prompt with an answer that was chosen and one that was rejected: plain text as it stands, or lists of messages."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import (
    SYSTEM,
    Example,
    Messages,
    Names,
    Text,
    messages_of,
    system_of,
    text,
    with_system,
)
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Preference:
    required: ClassVar[Names] = {
        "chosen": ("chosen", "chosen_response"),
        "rejected": ("rejected", "rejected_response"),
    }
    optional: ClassVar[Names] = {
        "prompt": ("prompt", "question", "instruction", "input"),
        "system": SYSTEM,
    }

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt, chosen, rejected = parted(row, values, data)
        if chosen == rejected:
            raise DataError(f"{row.place}: chosen and rejected are the same; nothing is preferred")
        record = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        return Example(row.place, record, prompt, words_of(chosen), prompt)


class Unpaired:
    """A prompt, an answer, and whether it is a good one."""

    required: ClassVar[Names] = {
        "prompt": ("prompt", "question"),
        "completion": ("completion", "answer", "response"),
        "label": ("label", "is_correct", "good"),
    }
    optional: ClassVar[Names] = {"system": SYSTEM}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt = prompt_of(row, values, data)
        completion = answer_to(prompt, row, "completion", values["completion"])
        record = {
            "prompt": prompt,
            "completion": completion,
            "label": _verdict(row, values["label"]),
        }
        return Example(row.place, record, prompt, words_of(completion), prompt)


def parted(row: Row, values: dict[str, Any], data: Data) -> tuple[Text, Text, Text]:
    """Prompt, chosen and rejected answer. Where the two are whole chats, as UltraFeedback and HH have them, all but
    their last messages is the prompt."""
    good, bad = (_chat(row, c, values[c], "prompt" in values) for c in ("chosen", "rejected"))
    if good is None or bad is None:
        if "prompt" not in values:
            raise DataError(
                f"{row.place}: no prompt, and chosen and rejected are no whole chats; name its column as "
                "data.columns.prompt"
            )
        prompt = prompt_of(row, values, data)
        chosen, rejected = (answer_to(prompt, row, c, values[c]) for c in ("chosen", "rejected"))
        return prompt, chosen, rejected
    asked = good[:-1]
    if asked != bad[:-1] or not asked:
        raise DataError(
            f"{row.place}: chosen and rejected part before their last messages; they must answer one prompt"
        )
    return (
        prompt_of(row, values, data, asked),
        answer_to(asked, row, "chosen", good[-1:]),
        answer_to(asked, row, "rejected", bad[-1:]),
    )


_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def _chat(row: Row, column: str, value: Any, has_prompt: bool) -> Messages | None:
    """A whole conversation, as a list or in the way that Anthropic's HH writes it; None for an answer alone."""
    if isinstance(value, list):
        messages = messages_of(row, column, value)
        return messages if len(messages) > 1 else None
    if has_prompt or not isinstance(value, str) or not _TURN.match(value):
        return None
    _, *pieces = _TURN.split(value)
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return [
        {
            "role": "user" if who == "Human" else "assistant",
            "content": text(row, column, said).strip(),
        }
        for who, said in turns
    ]


def prompt_of(row: Row, values: dict[str, Any], data: Data, prompt: Any = None) -> Text:
    """Its prompt, or the one that was found. Plain words are one as they stand; where the data has system messages, in
    this row or not, they are a user's."""
    value = values["prompt"] if prompt is None else prompt
    system = system_of(row, values.get("system"), data)
    if not isinstance(value, list):
        said = text(row, "prompt", value)
        if "system" in values:
            return with_system([{"role": "user", "content": said}], system)
        if data.system:
            raise DataError(
                "data.system needs a chat, and `prompt` is plain text here; put it into the prompt"
            )
        return said
    messages = with_system(messages_of(row, "prompt", value), system)
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
    said = value.strip().lower() if isinstance(value, str) else value
    if isinstance(said, bool | int | float | str) and said in _GOOD + _BAD:
        return said in _GOOD
    raise DataError(
        f"{row.place}: label must be true or false (1 or 0, yes or no, good or bad), not {value!r}"
    )


_GOOD = (1, "1", "true", "yes", "y", "good")  # True is 1, and so is 1.0
_BAD = (0, "0", "false", "no", "n", "bad")
