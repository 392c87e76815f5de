"""The text that `lorry-tiny` learns from: other people's, and exercises made from their words.

Nothing that anyone is measured on is in it: where a test file lies beside a training file, it is
read only to leave out what holds one of its rows.

Knows nothing about tokens or training.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lorry_tiny_skills import Material, exercise

SEED = 20
EXERCISES = 110_000
END = "<|end|>"
SYSTEM_PROMPTS = ["You are a helpful assistant.", "Answer briefly.", "Be exact."]


@dataclass(frozen=True)
class Document:
    """A conversation, or plain text as a single turn without a role. Exercises are learnt from
    their answers only: their requests are random words, and guessing those teaches nothing."""

    messages: tuple[tuple[str, str], ...]  # (role or "", content)
    answers_only: bool = False

    def text(self) -> str:
        return "".join(
            f"<|{role}|>{said}{END}" if role else said + END for role, said in self.messages
        )


# Reading.


class MeasuredRows:
    """Rows that models are measured on: `text in rows` tells whether a row stands in the text, word
    for word. Rows of one to three words ("yesterday") are anyone's and not looked for."""

    def __init__(self, rows: Iterable[str]) -> None:
        self.by_start: dict[tuple[str, ...], list[list[str]]] = {}
        for row in rows:
            if len(words := self._words(row)) >= 4:
                self.by_start.setdefault(tuple(words[:4]), []).append(words)

    def __contains__(self, text: str) -> bool:
        words = self._words(text)
        return any(
            words[at : at + len(row)] == row
            for at in range(len(words) - 3)
            for row in self.by_start.get(tuple(words[at : at + 4]), ())
        )

    @staticmethod
    def _words(text: str) -> list[str]:
        return re.findall(r"[\w']+", text.lower())


def read_csv(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row["text"].strip() for row in csv.DictReader(file)]


def read_bookings(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [
        row["userInput"]["text"].strip() for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def read_problems(path: Path) -> list[tuple[str, str]]:
    """(question, worked answer), the publisher's calculator marks taken out."""
    if not path.exists():
        return []
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        (r["question"], re.sub(r"<<.*?>>", "", r["answer"]).replace("\n#### ", "\nAnswer: "))
        for r in rows
    ]


def test_rows(data: Path) -> dict[str, list[str]]:
    """Rows of the test files, by kind: never learnt, and what a model may be measured on."""
    return {
        "bank": read_csv(data / "banking77/test.csv"),
        "restaurant": read_bookings(data / "restaurant8k/test.json"),
        "maths": [question for question, _ in read_problems(data / "gsm8k/test.jsonl")],
    }


def common_words(texts: Iterable[str], limit: int) -> list[str]:
    counts = Counter(w for t in texts for w in re.findall(r"\b[a-z]{3,10}\b", t))
    return [w for w, _ in counts.most_common(limit)]


def given_names(texts: Iterable[str]) -> list[str]:
    """Words of the maths problems that are written with a capital only."""
    text = " ".join(texts)
    capital = Counter(re.findall(r"\b[A-Z][a-z]{2,9}\b", text))
    small = set(re.findall(r"\b[a-z]+\b", text))
    not_names = "January February April June July August September October November December"
    return [
        w
        for w, n in capital.most_common()
        if n >= 3 and w.lower() not in small and not w.endswith("day") and w not in not_names
    ]


def short_sentences(texts: Iterable[str]) -> list[str]:
    sentences = (s.strip() for t in texts for s in re.split(r"(?<=[.?!])\s+|\n", t))
    return sorted({s for s in sentences if 3 <= len(s.split()) <= 20})


# Making documents of it.


def documents(data: Path) -> Iterator[Document]:
    """Each text, and exercises in general skills made from the same words."""
    measured = MeasuredRows(itertools.chain.from_iterable(test_rows(data).values()))
    plays = (data / "tinyshakespeare/input.txt").read_text(encoding="utf-8")
    bank = [r for r in read_csv(data / "banking77/train.csv") if r not in measured]
    bookings = [r for r in read_bookings(data / "restaurant8k/train.json") if r not in measured]
    problems = [p for p in read_problems(data / "gsm8k/train.jsonl") if p[0] not in measured]

    for scene in list(chunks(plays.split("\n\n"), 700))[::2]:
        yield Document((("", scene),))
    rng = Random(SEED)
    for rows in (bank, bookings):
        for _ in range(3):  # three passes, in a new order each time
            for group in chunks(rng.sample(rows, len(rows)), 500):
                yield Document((("", group),))
    for question, answer in problems[::3]:
        yield Document((("user", question), ("assistant", answer)))

    questions = [q for q, _ in problems]
    material = Material(
        words=common_words([*bank, *bookings, *questions], 2500),
        names=given_names(questions),
        sentences={
            "bank": short_sentences(bank),
            "restaurant": short_sentences(bookings),
            "maths": short_sentences(questions),
            "theatre": short_sentences(plays.split("\n\n")),
        },
    )
    for _ in range(EXERCISES):
        turns = [turn for _ in range(rng.choice([1, 1, 1, 2])) for turn in exercise(rng, material)]
        if any(turn in measured for turn in turns):  # one word replaced, and it is another row
            continue
        messages = list(zip(itertools.cycle(("user", "assistant")), turns, strict=False))
        if rng.random() < 0.15:
            messages.insert(0, ("system", rng.choice(SYSTEM_PROMPTS)))
        yield Document(tuple(messages), answers_only=True)


def chunks(parts: Iterable[str], limit: int) -> Iterator[str]:
    """Join lines until about `limit` characters are reached."""
    block: list[str] = []
    for part in parts:
        if block and sum(map(len, block)) + len(part) > limit:
            yield "\n".join(block)
            block = []
        block.append(part)
    yield "\n".join(block)
