"""Solved examples before a question, for the bare base: what it can do by being shown, not taught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorry_trainer.formats.contract import Example, Text

_BETWEEN = "\n\n"  # plain examples


@dataclass(frozen=True)
class Shown(Example):
    """A row with solved examples before its question."""

    end: str = (
        ""  # what stood behind each of their answers; in a chat nothing: the template ends a turn
    )


def with_shots(
    rows: list[Example],
    shown: list[Example],
    room: int,
    length: Callable[[Text], int],
) -> list[Example]:
    """The rows with as many of `shown` before the question as leave the prompt within `room` tokens."""
    return [_shown(row, shown, room, length) for row in rows]


def own_answer(row: Example, said: str) -> str:
    """What is said to the row's question. A base that was shown plain examples goes on with further ones of its own:
    it has seen no other end of an answer than the next example's beginning."""
    if isinstance(row, Shown) and row.end:
        return said.partition(row.end)[0].strip()
    return said


def _shown(row: Example, shown: list[Example], room: int, length: Callable[[Text], int]) -> Example:
    for count in range(len(shown), 0, -1):
        prompt, end = _before(shown[:count], row.prompt)
        if length(prompt) <= room:
            record = {"prompt": prompt, "completion": _completion(row)}
            return Shown(row.place, record, prompt, row.answer, row.question, end=end)
    return row


def _before(shown: list[Example], prompt: Text) -> tuple[Text, str]:
    """The prompt with the examples before it, and what stands behind each of them."""
    if isinstance(prompt, str):
        solved = [f"{_plain(e.prompt)}{e.answer}" for e in shown]
        end = _BETWEEN
        while any(end in example for example in solved):  # or an answer would end within itself
            end += "\n"
        return "".join(example + end for example in solved) + prompt, end
    first = 1 if prompt[0]["role"] == "system" else 0
    turns = [
        turn
        for e in shown
        if not isinstance(e.prompt, str)
        for turn in [
            *(m for m in e.prompt if m["role"] != "system"),
            {"role": "assistant", "content": e.answer},
        ]
    ]
    return [*prompt[:first], *turns, *prompt[first:]], ""


def _plain(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _completion(row: Example) -> Text:
    if isinstance(row.prompt, str):
        return row.answer
    return [{"role": "assistant", "content": row.answer}]
