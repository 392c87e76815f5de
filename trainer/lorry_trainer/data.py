"""From sources to the three splits: read, check, split, make more of it.

Every question is in one split only. Knows nothing about tokens but the check of lengths, which is handed a counting
function.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorry_trainer.augment import augment
from lorry_trainer.errors import DataError
from lorry_trainer.formats import MAY_BE_LABELS, examples
from lorry_trainer.formats.contract import Example
from lorry_trainer.formats.find import find_columns, told
from lorry_trainer.labels import (
    label_of,
    labels_of,
    refuse_spellings,
    refuse_unknown_labels,
    refuse_unlearnt_labels,
    told_labels,
    verdict_of,
)
from lorry_trainer.metrics import normalised
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.read import Row, Source
from lorry_trainer.recipe import Columns, Data, Splits
from lorry_trainer.repeats import without_leaks, without_repeats
from lorry_trainer.sources import read_sources
from lorry_trainer.spans import spans
from lorry_trainer.splitting import SPLITS, by_chance, stratified
from lorry_trainer.wording import counted

# Formats whose answers may be labels: elsewhere a few answers that come again are a few answers.
LABELLED = (*MAY_BE_LABELS, "labelled")
SEVERAL_ANSWERS = ("preference", "unpaired")
NO_SPANS = (
    "no tag is B-… or I-…, so nothing is a span and span_f1 stays 0: set evaluation.metric: tag_accuracy, or, where "
    "the tags are numbers, name them in data.labels"
)


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
    columns: Columns  # as given, or as found
    datasets: list[Dataset]
    labels: frozenset[str]  # the only answers there are; empty where the answers are no labels
    folder: Path  # that relative paths of the recipe start at
    dropped: int = 0  # training rows whose question is asked in the validation or test rows too
    notes: list[str] = field(
        default_factory=list
    )  # what was found in the rows and what became of it

    def all(self) -> list[Example]:
        return self.train + self.validation + self.test


def load(
    data: Data, folder: Path, seed: int, formats: Collection[str] = OBJECTIVES["sft"]
) -> Examples:
    """The splits that `data` asks for, in one of `formats`; relative paths start at `folder`. Raises DataError."""
    sources = read_sources(data, folder)
    main = sources.pop("train")
    notes: list[str] = []
    found = find_columns(main.rows, data, formats)
    if taken := told(main.rows, found):
        notes.append(f"{main.name}: {taken}")
    parts = {
        name: examples(source.rows, found.format, found, notes) for name, source in sources.items()
    }
    own = examples(_some(main.rows, data.max_rows, seed), found.format, found, notes)
    _refuse_mixture([*own, *(row for rows in parts.values() for row in rows)])
    if found.format == "tagged" and not any(spans(row.record["tags"]) for row in own):
        notes.append(NO_SPANS)
    labels = labels_of(data, own) if found.format in LABELLED else frozenset()
    if data.deduplicate:
        own = without_repeats(own, notes, one_answer=found.format not in SEVERAL_ANSWERS)

    # A split with a source of its own takes nothing from the training rows.
    _refuse_shares(data.splits, sources)
    shares = data.splits.model_copy(update=dict.fromkeys(sources, 0.0))
    for example, name in zip(own, _split(own, shares, seed, found, labels), strict=True):
        parts.setdefault(name, []).append(example)
    for name in SPLITS:
        parts.setdefault(name, [])
    parts["validation"], _ = without_leaks(parts["validation"], parts["test"], "test", notes)
    held_out = parts["validation"] + parts["test"]
    parts["train"], dropped = without_leaks(parts["train"], held_out, "held-out", notes)
    _refuse_empty(parts, shares, main, dropped)
    if isinstance(data.labels, tuple) and labels:
        refuse_unknown_labels(
            labels, parts["train"] + held_out, "is not one of data.labels", found.format
        )
    if labels:
        refuse_spellings([(row.place, row.answer) for row in parts["train"] + held_out])
        refuse_unlearnt_labels(parts["train"], held_out, found.format)
        notes.append(told_labels(parts["train"]))
        if header := next((name for name in main.rows[0].values if normalised(name) in labels), ""):
            notes.append(
                f"{main.name}: a column is called {header!r}, which is a label too; if its first line is a row, write "
                "one of names above it, text,label"
            )
    datasets = [
        Dataset(source.name, source.digest, name, len(parts[name]))
        for name in SPLITS
        if parts[name]
        for source in [sources.get(name, main)]
    ]
    if data.augment:
        before = len(parts["train"])
        keys = {row.key for row in held_out}
        parts["train"] = augment(parts["train"], keys, data.augment, seed)
        more = len(parts["train"]) - before
        notes.append(f"{counted(more, 'training row')} more by augmentation")
    return Examples(
        **parts,
        format=found.format,
        columns=found.columns,
        datasets=datasets,
        labels=labels,
        folder=folder,
        dropped=dropped,
        notes=notes,
    )


def _some(rows: list[Row], count: int | None, seed: int) -> list[Row]:
    """`count` of them at most, drawn by the seed: a file may be sorted by label. In the file's order."""
    if count is None or count >= len(rows):
        return rows
    drawn = random.Random(f"rows:{seed}").sample(range(len(rows)), count)
    return [rows[at] for at in sorted(drawn)]


def _split(
    rows: list[Example], shares: Splits, seed: int, found: Data, labels: frozenset[str]
) -> list[str]:
    """The split of each row: by label where the answers are labels or verdicts, unless the recipe says otherwise."""
    judged = found.format == "unpaired"
    by_label = bool(labels) or judged
    if found.splits.stratify is not None:
        by_label = found.splits.stratify
    if not by_label:
        return by_chance(rows, shares, seed)
    return stratified(rows, shares, seed, verdict_of if judged else label_of)


def _refuse_shares(splits: Splits, sources: dict[str, Source]) -> None:
    """Raise DataError where the recipe gives a share to a split that has a source of its own."""
    for name, source in sources.items():
        if splits.asks(name):
            raise DataError(
                f"data.splits.{name}: the {name} rows are those of {source.name}; leave it out"
            )


def _refuse_mixture(rows: list[Example]) -> None:
    """Raise DataError where some prompts are plain text and others chats: a trainer reads one or the other."""
    plain = next((row for row in rows if isinstance(row.prompt, str)), None)
    chat = next((row for row in rows if not isinstance(row.prompt, str)), None)
    if plain and chat:
        raise DataError(
            f"{plain.place} has plain text for a prompt, and {chat.place} a chat; give all rows in one way"
        )


def choose(rows: list[Example], count: int, seed: int) -> list[Example]:
    """`count` of the rows at most, the same ones for the same seed."""
    ranked = sorted(rows, key=lambda e: hashlib.sha256(f"choose:{seed}:{e.key}".encode()).digest())
    return ranked[:count]


def within(
    data: Examples, limit: int, skip: bool, count_tokens: Callable[[list[Example]], list[int]]
) -> Examples:
    """`data` whose rows have `limit` tokens at most: longer ones are left out and told where `skip` says so, else
    refused. Nothing is cut silently. Raises DataError naming them."""
    rows = data.all()
    lengths = count_tokens(rows)
    long = [(example, n) for example, n in zip(rows, lengths, strict=True) if n > limit]
    if not long:
        return data
    some = "; ".join(f"{example.place}: {n} tokens" for example, n in long[:5])
    more = f" and {len(long) - 5} more" if len(long) > 5 else ""
    told = f"{len(long)} of {counted(len(rows), 'row')} {'is' if len(long) == 1 else 'are'} longer than {limit} tokens"
    if not skip:
        raise DataError(
            f"{told} ({some}{more}). Shorten or remove them (`data.unfit: skip` leaves them out), raise "
            "data.max_length up to the base's context, or take a base with a longer one"
        )
    places = {example.place for example, _ in long}
    kept = {s: [row for row in getattr(data, s) if row.place not in places] for s in SPLITS}
    if gone := [s for s in SPLITS if getattr(data, s) and not kept[s]]:
        raise DataError(f"{told}, and none is left of {gone[0]}; take a base with a longer context")
    # Variants are no rows of a file.
    counts = {s: sum(not row.is_variant for row in kept[s]) for s in SPLITS}
    if data.labels:
        refuse_unlearnt_labels(kept["train"], kept["validation"] + kept["test"], data.format)
    return replace(
        data,
        train=kept["train"],
        validation=kept["validation"],
        test=kept["test"],
        datasets=[replace(d, row_count=counts[d.split]) for d in data.datasets],
        notes=[*data.notes, f"{told}, left out ({some}{more})"],
    )


def _refuse_empty(
    parts: dict[str, list[Example]], shares: Splits, main: Source, dropped: int
) -> None:
    rows = len(main.rows)
    has = counted(rows, "row")
    if not parts["train"]:
        why = f"; {dropped} asked what a held-out row asks" if dropped else ""
        raise DataError(
            f"{main.name}: {has}, and none is left to train on{why}; add rows or lower data.splits"
        )
    for name in SPLITS[1:]:
        if getattr(shares, name) and not parts[name]:
            raise DataError(
                f"{main.name}: {has}, and none falls into {name}; add rows, raise data.splits.{name}, "
                f"name a file as data.{name}, or set data.splits.{name}: 0 to go without"
            )
