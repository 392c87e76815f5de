"""Make the data sets of these examples again, byte for byte: `python -m lorry_trainer.examples.objectives.generate`.

Put together from templates written for this project, as those of `lorry_trainer.examples.generate` are.
"""

# ruff: noqa: SIM905 (words in a string are easier to read)
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
# English and German; things in the plural, which has one article.
SENTENCES = (
    ("{name} buys {number} {things} on {day}", "{name} kauft am {Tag} {Zahl} {Dinge}"),
    ("{number} {things} will come on {day}", "{Zahl} {Dinge} kommen am {Tag}"),
    ("please send {number} {things} to {name}", "bitte senden Sie {Zahl} {Dinge} an {name}"),
    ("{name} needs the {things} before {day}", "{name} braucht die {Dinge} vor {Tag}"),
    ("{name} has no {things} on {day}", "{name} hat am {Tag} keine {Dinge}"),
    ("the {number} {things} are for {name}", "die {Zahl} {Dinge} sind für {name}"),
)
THINGS = {
    "lamps": "Lampen",
    "chairs": "Stühle",
    "desks": "Tische",
    "jackets": "Jacken",
    "phones": "Telefone",
    "cameras": "Kameras",
    "bikes": "Fahrräder",
    "tents": "Zelte",
    "watches": "Uhren",
    "mirrors": "Spiegel",
    "blankets": "Decken",
}
TAGE = dict(
    zip(DAYS, "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag".split(), strict=True)
)
ZAHLEN = dict(zip(NUMBERS[2:8], "zwei drei vier fünf sechs sieben".split(), strict=True))
LOG = (
    "{name} came on {day} and asked for the {item}.",
    "We sent {number} {item}s to {name}.",
    "The {item} for {name} is late.",
    "On {day} nobody came.",
    "{number} {item}s are left.",
)


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


def translation(rng: Random) -> Row:
    """A sentence in English and in German."""
    english, german = rng.choice(SENTENCES)
    thing, day, number = (rng.choice(list(words)) for words in (THINGS, TAGE, ZAHLEN))
    name = rng.choice(NAMES)
    return {
        "source": english.format(name=name, things=thing, day=day, number=number),
        "target": german.format(name=name, Dinge=THINGS[thing], Tag=TAGE[day], Zahl=ZAHLEN[number]),
    }


def log(rng: Random) -> Row:
    """What happened in a shop, as plain text."""
    said = [
        sentence.format(**{kind: rng.choice(values) for kind, values in KINDS.items()})
        for sentence in rng.sample(LOG, 3)
    ]
    return {"text": " ".join(sentence[0].upper() + sentence[1:] for sentence in said)}


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
    """A complaint alone; `brief_reward.py` rewards short answers."""
    return {"prompt": complaint(rng)}


TASKS: dict[str, Callable[[Random], Row]] = {
    "slots": slots,
    "passage": passage,
    "translation": translation,
    "log": log,
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
        lines = (json.dumps(row, ensure_ascii=False) for row in rows(task))
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
