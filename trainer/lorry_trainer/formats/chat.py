"""Conversations: all that the assistant says is learnt, and nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import (
    SYSTEM,
    Example,
    Names,
    messages_of,
    system_of,
    with_system,
)
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Chat:
    required: ClassVar[Names] = {"messages": ("messages", "conversations", "conversation")}
    optional: ClassVar[Names] = {"system": SYSTEM}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        messages = with_system(
            messages_of(row, "messages", values["messages"]),
            system_of(row, values.get("system"), data),
        )
        first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), None)
        if first is None or messages[-1]["role"] != "assistant":
            raise DataError(
                f"{row.place}: messages must end with the assistant's, which is what is learnt; take out what follows"
            )
        if first == 0 or all(m["role"] == "system" for m in messages[:first]):
            raise DataError(
                f"{row.place}: the assistant speaks first; a user's message must come before it, or take its own out"
            )
        return Example(
            row.place,
            {"messages": messages},
            messages[:-1],
            messages[-1]["content"],
            messages[:first],
        )
