"""From files to the three splits: read, check, split.

A row's split follows from its question and the seed alone: it never moves when rows are added or reordered, and equal
questions stay together. Knows nothing about tokens but the check of lengths, which is handed a counting function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from lorry_trainer.errors import DataError
from lorry_trainer.formats import examples, find_format
from lorry_trainer.formats.contract import Example
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.read import Source, read_source
from lorry_trainer.recipe import Data, Splits

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """A file's part in a split, for the lineage."""

    name: str
    digest: str
    split: str
    row_count: int


@dataclass(frozen=True)
class Examples:
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    format: str
    datasets: list[Dataset]
    dropped: int = 0  # training rows whose question is asked in the validation or test rows too

    def all(self) -> list[Example]:
        return self.train + self.validation + self.test


def load(
    data: Data, folder: Path, seed: int, formats: Collection[str] = OBJECTIVES["sft"]
) -> Examples:
    """The splits that `data` asks for, in one of `formats`; relative paths start at `folder`. Raises DataError."""
    main = read_source(data.path or data.train or "", folder)
    others = {
        split: read_source(name, folder)
        for split in ("validation", "test")
        if (name := getattr(data, split))
    }
    form = find_format(main.rows, data, formats)
    parts: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for name, source in others.items():
        parts[name] = examples(source.rows, form, data)

    # A split with a file of its own takes nothing from the training file.
    shares = Splits(
        **{name: 0.0 if name in others else getattr(data.splits, name) for name in SPLITS[1:]}
    )
    for example in examples(main.rows[: data.max_rows], form, data):
        parts[split_of(example.key, shares, seed)].append(example)
    held_out = {example.key for name in SPLITS[1:] for example in parts[name]}
    train = [example for example in parts["train"] if example.key not in held_out]
    dropped = len(parts["train"]) - len(train)
    parts["train"] = train

    _refuse_empty(parts, shares, main, dropped)
    datasets = [
        Dataset(source.name, source.digest, name, len(parts[name]))
        for name in SPLITS
        if parts[name]
        for source in [others.get(name, main)]
    ]
    return Examples(parts["train"], parts["validation"], parts["test"], form, datasets, dropped)


def split_of(key: str, shares: Splits, seed: int) -> str:
    """Where the question `key` belongs: a number from 0 to 1 made of it and the seed, test at the low end."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64
    if at < shares.test:
        return "test"
    return "validation" if at < shares.test + shares.validation else "train"


def choose(rows: list[Example], count: int, seed: int) -> list[Example]:
    """`count` of the rows at most, the same ones for the same seed."""
    ranked = sorted(rows, key=lambda e: hashlib.sha256(f"choose:{seed}:{e.key}".encode()).digest())
    return ranked[:count]


def refuse_long_rows(
    rows: list[Example], limit: int, count_tokens: Callable[[list[Example]], list[int]]
) -> None:
    """Raise DataError naming the rows that have more than `limit` tokens. Nothing is cut silently."""
    lengths = count_tokens(rows)
    long = [(example, n) for example, n in zip(rows, lengths, strict=True) if n > limit]
    if long:
        some = "; ".join(f"{example.place}: {n} tokens" for example, n in long[:5])
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise DataError(
            f"{len(long)} of {len(rows)} rows are longer than {limit} tokens ({some}{more}). Shorten or remove them, "
            "raise data.max_length up to the base's context, or take a base with a longer one"
        )


def _refuse_empty(
    parts: dict[str, list[Example]], shares: Splits, main: Source, dropped: int
) -> None:
    rows = len(main.rows)
    counted = f"{rows} row{'s' if rows != 1 else ''}"
    if not parts["train"]:
        why = f"; {dropped} asked what a held-out row asks" if dropped else ""
        raise DataError(
            f"{main.name}: {counted}, and none is left to train on{why}; add rows or lower data.splits"
        )
    for name in SPLITS[1:]:
        if getattr(shares, name) and not parts[name]:
            raise DataError(
                f"{main.name}: {counted}, and none falls into {name}; add rows, raise data.splits.{name}, "
                f"name a file as data.{name}, or set data.splits.{name}: 0 to go without"
            )
