"""Solved examples before a question, for the bare base: what it can do by being shown, not taught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lorry_trainer.formats.contract import Example, Text


def with_shots(
    rows: list[Example],
    shown: list[Example],
    room: int,
    length: Callable[[Text], int],
) -> list[Example]:
    """The rows with as many of `shown` before the question as leave the prompt within `room` tokens."""
    return [_shown(row, shown, room, length) for row in rows]


def _shown(row: Example, shown: list[Example], room: int, length: Callable[[Text], int]) -> Example:
    for count in range(len(shown), 0, -1):
        prompt = _before(shown[:count], row.prompt)
        if length(prompt) <= room:
            record = {"prompt": prompt, "completion": _completion(row)}
            return replace(row, prompt=prompt, record=record)
    return row


def _before(shown: list[Example], prompt: Text) -> Text:
    if isinstance(prompt, str):
        return "".join(f"{_plain(e.prompt)}{e.answer}\n\n" for e in shown) + prompt
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
    return [*prompt[:first], *turns, *prompt[first:]]


def _plain(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _completion(row: Example) -> Text:
    if isinstance(row.prompt, str):
        return row.answer
    return [{"role": "assistant", "content": row.answer}]
