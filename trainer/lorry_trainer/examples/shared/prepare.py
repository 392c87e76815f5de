"""Rows for the recipes beside this file, made of data that Lorry does not ship.

    python -m lorry_trainer.examples.shared.prepare ../shared/data

The folder is laid out as the publishers have it: `restaurant8k/train.json`, `gsm8k/example_model_solutions.jsonl`, and
so on. What is made stands in `rows/` here. Recipes for banking77 read the publisher's files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ASKS = {
    "people": "For how many people?",
    "date": "On which day?",
    "time": "At what time?",
    "first_name": "What is the first name?",
    "last_name": "What is the last name?",
}
SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
LONGEST_SOLUTION = 400  # characters
HELD_OUT_QUESTIONS = 300  # of those with right and wrong solutions, one pair of each

Rows = list[dict[str, Any]]
Slot = tuple[int, int, str]  # first character, the one after the last, name


def main(data: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for split in ("train", "test"):
        said = json.loads((data / "restaurant8k" / f"{split}.json").read_text(encoding="utf-8"))
        write(out / f"restaurant8k-tags-{split}.jsonl", [tagged(row) for row in said])
        write(out / f"restaurant8k-spans-{split}.jsonl", [s for row in said for s in spans(row)])
        write(out / f"restaurant8k-text-{split}.jsonl", [as_text(row) for row in said])
        questions = read(data / "gsm8k" / f"{split}.jsonl")
        write(out / f"gsm8k-questions-{split}.jsonl", [question(row) for row in questions])
    learnt, held_out = pairs(read(data / "gsm8k" / "example_model_solutions.jsonl"))
    write(out / "gsm8k-pairs-train.jsonl", learnt)
    write(out / "gsm8k-pairs-test.jsonl", held_out)


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: Rows) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def slots(row: dict[str, Any]) -> list[Slot]:
    """In the order of the text; a place that is left out is 0."""
    places = [(label["valueSpan"], label["slot"]) for label in row.get("labels", [])]
    return sorted((span.get("startIndex", 0), span["endIndex"], name) for span, name in places)


def requested(row: dict[str, Any]) -> list[str]:
    """What the system had asked for before: `5` alone may be people or a time."""
    return [str(name) for name in row.get("context", {}).get("requestedSlots", [])]


def tagged(row: dict[str, Any]) -> dict[str, list[str]]:
    """The words, each with its tag; what was asked for stands before them."""
    words, tags = [], []
    for name in requested(row):
        words.append(f"{name}?")
        tags.append("O")
    found = slots(row)
    begun: set[Slot] = set()
    for word in re.finditer(r"\w+|[^\w\s]", row["userInput"]["text"]):
        slot = next((s for s in found if s[0] < word.end() and s[1] > word.start()), None)
        words.append(word.group())
        tags.append("O" if slot is None else f"{'I' if slot in begun else 'B'}-{slot[2]}")
        if slot is not None:
            begun.add(slot)
    return {"words": words, "tags": tags}


def spans(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A question for each slot that is there."""
    text = row["userInput"]["text"]
    for start, end, name in slots(row):
        yield {
            "question": ASKS[name],
            "context": text,
            "answer": text[start:end],
            "start": start,
        }


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """One line for each slot, `none` where there is none."""
    text = row["userInput"]["text"]
    asked = " ".join(f"{name}?" for name in requested(row))
    lines = [f"{name}: {text[start:end]}" for start, end, name in slots(row)]
    return {"instruction": f"{asked} {text}".strip(), "output": "\n".join(lines) or "none"}


def asked(said: str) -> list[dict[str, str]]:
    """As a chat: the base goes on with a solution after one, and after plain text with another text."""
    return [{"role": "user", "content": said}]


def question(row: dict[str, str]) -> dict[str, Any]:
    """The number behind `####` is the answer."""
    return {"prompt": asked(row["question"]), "answer": row["answer"].rpartition("#### ")[2]}


def pairs(questions: Rows) -> tuple[Rows, Rows]:
    """A right solution before a wrong one, both by models. All pairs of the questions that are learnt from; one of each
    that is held out, so that held-out rows are independent of each other."""
    learnt: Rows = []
    held_out: Rows = []
    tested = 0
    for number, row in enumerate(questions):
        fitting = [
            (row[name]["solution"], row[name]["is_correct"])
            for name in SYSTEMS
            if len(row[name]["solution"]) <= LONGEST_SOLUTION
        ]
        right, wrong = (
            [s for s, is_right in fitting if is_right is kind] for kind in (True, False)
        )
        both = [
            {"prompt": asked(row["question"]), "chosen": a, "rejected": b}
            for a, b in product(right, wrong)
        ]
        if both and tested < HELD_OUT_QUESTIONS and number % 2:
            held_out.append(both[number % len(both)])
            tested += 1
        else:
            learnt += both
    return learnt, held_out


if __name__ == "__main__":
    main(Path(sys.argv[1]), HERE / "rows")
