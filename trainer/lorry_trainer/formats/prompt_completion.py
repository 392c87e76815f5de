"""A prompt and what follows it: plain text as it stands, or lists of messages."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import (
    Example,
    Names,
    messages_of,
    question_key,
    text,
    with_system,
)
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class PromptCompletion:
    required: ClassVar[Names] = {"prompt": ("prompt",), "completion": ("completion",)}
    optional: ClassVar[Names] = {}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        prompt, completion = values["prompt"], values["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            prompt, completion = text(row, "prompt", prompt), text(row, "completion", completion)
            if data.system:
                raise DataError(
                    "data.system needs a chat, and `prompt` is plain text here; put it into the prompt"
                )
            return Example(
                row.place,
                {"prompt": prompt, "completion": completion},
                prompt,
                completion,
                question_key(prompt),
            )
        if isinstance(prompt, str) or isinstance(completion, str):
            raise DataError(
                f"{row.place}: prompt and completion must both be text, or both be lists of messages"
            )
        asked = with_system(messages_of(row, "prompt", prompt), data.system)
        said = messages_of(row, "completion", completion)
        if len(said) != 1 or said[0]["role"] != "assistant" or asked[-1]["role"] != "user":
            raise DataError(
                f"{row.place}: prompt must end with a user's message, completion be one of the assistant"
            )
        return Example(
            row.place,
            {"prompt": asked, "completion": said},
            asked,
            said[0]["content"],
            question_key(asked),
        )
