"""Make the data sets of these examples again, byte for byte: `python -m lorry_trainer.examples.objectives.generate`.

Put together from templates written for this project, as those of `lorry_trainer.examples.generate` are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from lorry_trainer.examples.generate import DAYS, ITEMS, NAMES, NUMBERS

Row = dict[str, Any]

ORDERS = (
    "please bring a {item} to {name} on {day}",
    "{name} needs {number} {item}s before {day}",
    "on {day} {name} will pick up the {item}",
    "send {number} {item}s to {name}",
    "can {name} have the {item} by {day} ?",
)
KINDS = {"item": ITEMS, "name": NAMES, "day": DAYS, "number": NUMBERS[2:]}
ASKED = {"item": "What is ordered?", "name": "Who is it for?", "day": "Which day?"}
KIND = (
    "Thank you for asking. I will look at it at once.",
    "Of course, I am glad to help you with that.",
    "I am sorry for the trouble. Let me put it right.",
)
RUDE = ("No.", "That is your own fault.", "Why do you ask me? Read the manual.")


def slots(rng: Random) -> Row:
    """An order's words, each tagged with what it is."""
    words: list[str] = []
    tags: list[str] = []
    for word in rng.choice(ORDERS).split():
        kind = next((kind for kind in KINDS if f"{{{kind}}}" in word), None)
        words.append(word if kind is None else word.format(**{kind: rng.choice(KINDS[kind])}))
        tags.append("O" if kind is None else f"B-{kind}")
    return {"words": words, "tags": tags}


def passage(rng: Random) -> Row:
    """A question about an order, and the word of it that answers."""
    order = rng.choice([order for order in ORDERS if all(f"{{{kind}}}" in order for kind in ASKED)])
    given = {kind: rng.choice(values) for kind, values in KINDS.items()}
    kind = rng.choice(list(ASKED))
    return {"question": ASKED[kind], "context": order.format(**given), "answer": given[kind]}


def complaint(rng: Random) -> list[dict[str, str]]:
    order = rng.choice(
        ("my {item} came late on {day}", "{name} broke the {item}, what now", "the {item} is gone")
    )
    given = {kind: rng.choice(values) for kind, values in KINDS.items()}
    return [{"role": "user", "content": f"{order.format(**given)} ({rng.randrange(1000)})"}]


def polite(rng: Random) -> Row:
    """Two answers to a complaint: a kind one that was chosen, a rude one that was rejected."""
    return {"prompt": complaint(rng), "chosen": rng.choice(KIND), "rejected": rng.choice(RUDE)}


def judged(rng: Random) -> Row:
    """One answer to a complaint, and whether it is a good one."""
    good = rng.random() < 0.5
    return {
        "prompt": complaint(rng),
        "completion": rng.choice(KIND if good else RUDE),
        "label": good,
    }


def brief(rng: Random) -> Row:
    """A complaint alone; `brief.py` rewards short answers."""
    return {"prompt": complaint(rng)}


TASKS: dict[str, Callable[[Random], Row]] = {
    "slots": slots,
    "passage": passage,
    "polite": polite,
    "judged": judged,
    "brief": brief,
}
ROWS = 300


def rows(task: str, seed: int = 7) -> list[Row]:
    """No two of which are the same."""
    rng = Random(f"{task}:{seed}")
    found: dict[str, Row] = {}
    while len(found) < ROWS:
        row = TASKS[task](rng)
        found.setdefault(json.dumps(row), row)
    return list(found.values())


def write(folder: Path) -> None:
    for task in TASKS:
        lines = (json.dumps(row) for row in rows(task))
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
