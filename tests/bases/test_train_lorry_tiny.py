"""How lorry-tiny is made: what it starts with, and that it learnt nothing anyone is measured on."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from lorry_bases import resolve

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "trainer" / "lorry_trainer" / "examples"
# A row of eight words and more is looked for anywhere, a shorter one ("I would like a table") as a
# whole line or turn, and one to three words ("yesterday") not at all: those are anyone's.
WINDOW, SHORTEST = 8, 4


@pytest.fixture(scope="module")
def recipe() -> Any:
    """The training script, which is not part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "bases"))
        import train_lorry_tiny

        yield train_lorry_tiny


@pytest.fixture(scope="module")
def corpus(recipe: Any, training_text: Path) -> list[str]:
    return list(recipe.corpus(training_text))


def words(text: str) -> list[str]:
    return text.lower().split()


def overlap(rows: set[str], corpus: list[str]) -> set[str]:
    """The rows that stand in a document."""
    longer: dict[tuple[str, ...], list[list[str]]] = {}
    shorter = set()
    for row in rows:
        if len(row_words := words(row)) >= WINDOW:
            longer.setdefault(tuple(row_words[:WINDOW]), []).append(row_words)
        elif len(row_words) >= SHORTEST:
            shorter.add(" ".join(row_words))
    found = set()
    for text in corpus:
        for line in re.split(r"<\|\w+\|>|\n", text):
            line_words = words(line)
            if " ".join(line_words) in shorter:
                found.add(" ".join(line_words))
            for at in range(len(line_words) - WINDOW + 1):
                for row_words in longer.get(tuple(line_words[at : at + WINDOW]), ()):
                    if line_words[at : at + len(row_words)] == row_words:
                        found.add(" ".join(row_words))
    return found


def test_rows(data: Path) -> Iterator[str]:
    with (data / "banking77/test.csv").open(newline="") as file:
        yield from (row["text"] for row in csv.DictReader(file))
    for row in json.loads((data / "restaurant8k/test.json").read_text()):
        yield row["userInput"]["text"]
    for line in (data / "gsm8k/test.jsonl").read_text().splitlines():
        yield json.loads(line)["question"]


test_rows.__test__ = False  # type: ignore[attr-defined]


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(strings, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(strings, value))


def test_no_test_row_is_in_the_corpus(corpus: list[str], training_text: Path) -> None:
    assert overlap(set(test_rows(training_text)), corpus) == set()


def test_no_row_of_a_shipped_example_is_in_the_corpus(corpus: list[str]) -> None:
    made = EXAMPLES / "shared" / "rows"  # by whoever has the data, which Lorry does not ship
    files = [file for file in sorted(EXAMPLES.rglob("*.jsonl")) if made not in file.parents]
    if not files:
        pytest.skip(f"no examples in {EXAMPLES}")
    rows = [
        s for f in files for line in f.read_text().splitlines() for s in strings(json.loads(line))
    ]
    assert overlap({row for row in rows if len(words(row)) >= WINDOW}, corpus) == set()


def test_overlap_finds_a_row_that_is_there() -> None:
    """The two tests above would pass on a broken search, too."""
    row = "can I bring my small dog to the terrace on Friday"
    assert overlap({row}, [f"<|user|>Repeat: hello, {row} please<|end|>"])
    assert overlap({"Where is it now"}, ["<|user|>Where is it now<|end|>"])
    assert not overlap({"Where is it now"}, ["<|user|>Where is it now then<|end|>"])


def test_same_seed_same_exercises(recipe: Any) -> None:
    from lorry_tiny_skills import Material, exercise

    material = Material(
        words=[f"word{i}" for i in range(200)],
        names=["Ada", "Grace", "Alan", "Edsger"],
        sentences={"one": ["A first sentence here."], "two": ["And a second one."]},
    )
    made = [[exercise(rng, material) for _ in range(500)] for rng in (Random(1), Random(1))]
    assert made[0] == made[1]
    assert all(request and answer for request, answer in made[0])


def test_untrained_model_copies(recipe: Any) -> None:
    """The circuit written by hand: a repeated run of random tokens goes on as it began. Chance is
    1 in 4096; each of four heads sees a part of a token's identity, so a few look alike."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("lorry-tiny"))
    model = recipe.new_model(tokenizer).eval()
    said = torch.randint(5, 4096, (4, 40))
    with torch.inference_mode():
        predicted = model(input_ids=said.repeat(1, 3)).logits.argmax(-1)
    right = predicted[:, 40:-1] == said.repeat(1, 3)[:, 41:]
    assert right.float().mean() > 0.9
