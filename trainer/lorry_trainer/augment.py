"""More training rows out of those that are there: questions said in other words or with a typing error.

What carries the answer stays: no digit, and no word that the answer has, is touched. Where a variant would be a
question that is there already, held out ones included, there is none: it backs off. Only training rows go in.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import regex

from lorry_trainer.formats.contract import Example, Text
from lorry_trainer.metrics import normalised, words
from lorry_trainer.recipe import Augment


def augment(rows: list[Example], held_out: set[str], config: Augment, seed: int) -> list[Example]:
    """The rows, each followed by its variants. The same for the same rows and seed."""
    # Whose words a question is: those who ask the same share a variant with each other, and with nobody else.
    owner = {key: key for key in held_out | {row.key for row in rows}}
    made: list[Example] = []
    for row in rows:
        made.append(row)
        own = {row.key}
        for variant in _variants(row, config, seed):
            if variant.key not in own and owner.setdefault(variant.key, row.key) == row.key:
                own.add(variant.key)
                made.append(variant)
    return made


def _variants(row: Example, config: Augment, seed: int) -> Iterator[Example]:
    for copy in range(config.copies):
        chance = random.Random(f"{seed}:{copy}:{row.key}")
        asked = _question(row.prompt)
        if not asked:
            return
        said = asked
        if config.templates:
            said = chance.choice(config.templates).replace("{question}", said)
        if config.typos:
            said = _with_typos(said, set(words(row.answer)), config.typos, chance)
        if said != asked:
            yield _ask(row, asked, said, f"{row.place}, variant {copy + 1}")


def _with_typos(text: str, keep: set[str], share: float, chance: random.Random) -> str:
    """Two neighbouring letters of a word exchanged, in about `share` of the words of four letters and more. A word with
    marks on its letters stays as it is: another letter would get the mark."""

    def slip(match: regex.Match[str]) -> str:
        word: str = match[0]
        if normalised(word) in keep or chance.random() >= share:
            return word
        at = chance.randrange(1, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    said: str = regex.sub(r"(?<![\w\p{M}])\p{L}{4,}(?![\w\p{M}])", slip, text)
    return said


def _question(prompt: Text) -> str:
    if isinstance(prompt, str):
        return prompt
    return next((m["content"] for m in prompt if m["role"] == "user"), "")


def _ask(row: Example, asked: str, said: str, place: str) -> Example:
    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return said if value == asked else value
        if isinstance(value[0], str):  # two texts, of which the first is asked
            return [said, *value[1:]]
        at = next(i for i, m in enumerate(value) if m["role"] == "user")
        return [*value[:at], {**value[at], "content": said}, *value[at + 1 :]]

    record = dict(row.record)
    for column in ("prompt", "messages", "text", "question"):
        if column in record:
            record[column] = changed(record[column])
    return replace(
        row,
        place=place,
        record=record,
        is_variant=True,
        prompt=changed(row.prompt),
        question=changed(row.question),
    )
