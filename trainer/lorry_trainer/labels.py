"""Whether the answers are labels, a few kinds that come again and again, and what then must hold.

Knows nothing about files: rows in, complaints out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lorry_trainer.errors import DataError
from lorry_trainer.formats import MAY_BE_LABELS
from lorry_trainer.formats.contract import Example
from lorry_trainer.metrics import normalised
from lorry_trainer.recipe import Data
from lorry_trainer.wording import counted

NOT_LEARNT = "no training row has"
LABELS_FILE = "labels.json"  # beside an adapter that classifies: the names of its head's outputs, in their order
MOST_LABELS = 1000
_SHOWN = 12  # of them in a message
LONGEST_LABEL = 80  # characters


def label_of(example: Example) -> str:
    return normalised(example.answer)


def verdict_of(example: Example) -> str:
    """Whether an answer is a good one, where rows are answers with a verdict."""
    return str(example.record["label"])


def find_labels(rows: Sequence[Example]) -> frozenset[str]:
    """The labels of the rows, or none where the answers are free text: labels are short, and each comes five times on
    average at least."""
    counts = Counter(map(label_of, rows))
    are_labels = (
        1 < len(counts) <= min(MOST_LABELS, len(rows) / 5)
        and max(map(len, counts)) <= LONGEST_LABEL
        and not any("\n" in row.answer for row in rows)
    )
    return frozenset(counts) if are_labels else frozenset()


def labels_of(data: Data, rows: Sequence[Example]) -> frozenset[str]:
    """Those that the recipe names, or has found; none where it says that answers are no labels."""
    if isinstance(data.labels, tuple):
        return frozenset(map(normalised, data.labels))
    return find_labels(rows) if data.labels == "auto" else frozenset()


def told_labels(rows: Sequence[Example]) -> str:
    """How many there are, and how often the most frequent ones come; all that come once: they may be mistakes."""
    counts = Counter(row.answer for row in rows)
    some = ", ".join(f"{label} {count}" for label, count in counts.most_common(_SHOWN))
    more = ", …" if len(counts) > _SHOWN else ""
    once = [label for label, count in counts.items() if count == 1]
    rare = f"; in one row alone: {', '.join(once[:_SHOWN])}{', …' * (len(once) > _SHOWN)}"
    return f"{counted(len(counts), 'label')} ({some}{more}{rare * bool(once)})"


def refuse_spellings(rows: Sequence[tuple[str, str]]) -> None:
    """Raise DataError where two of these labels, each with its place, are told apart by case or blank space alone."""
    seen: dict[str, tuple[str, str]] = {}
    for place, label in rows:
        other, there = seen.setdefault(normalised(label), (label, place))
        if other != label:
            raise DataError(
                f"labels {other!r} ({there}) and {label!r} ({place}) differ in case or blank space only; write them "
                "alike"
            )


def refuse_unlearnt_labels(
    train: Sequence[Example], held_out: Sequence[Example], format_name: str
) -> None:
    """Raise DataError naming the held-out rows whose label nobody learns."""
    refuse_unknown_labels(frozenset(map(label_of, train)), held_out, NOT_LEARNT, format_name)


def refuse_unknown_labels(
    known: frozenset[str], rows: Sequence[Example], why: str, format_name: str
) -> None:
    """Raise DataError naming the rows whose label is not among `known`."""
    strange = [(row, row.answer) for row in rows if label_of(row) not in known]
    refuse_strange(strange, why, may_be_none=format_name in MAY_BE_LABELS)


def refuse_strange(
    strange: Sequence[tuple[Example, str]], why: str, *, may_be_none: bool = False
) -> None:
    """Raise DataError naming these rows with their labels, where there are any."""
    if not strange:
        return
    some = "; ".join(f"{row.place}: {label!r}" for row, label in strange[:5])
    more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
    told = f"{counted(len(strange), 'row has', 'rows have')} a label that {why} ({some}{more})"
    way_out = "Add training rows with it, or mend or remove these rows"
    if may_be_none:
        way_out += "; or set data.labels: any when the answers are no labels"
    raise DataError(f"{told}. {way_out}")
