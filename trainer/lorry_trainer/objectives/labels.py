"""Label sets: which labels the rows have, and how well spans of them were found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lorry_trainer.bootstrap import Interval, of_ratio
from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.labels import NOT_LEARNT, refuse_spellings, refuse_strange
from lorry_trainer.spans import spans

LabelsOf = Callable[[Example], Iterable[str]]


def label_set(data: Examples, labels_of: LabelsOf) -> tuple[str, ...]:
    """The labels of the training rows, in order. Raises DataError where a held-out row has another, or all have one."""
    known = {label for row in data.train for label in labels_of(row)}
    if len(known) < 2:
        raise DataError(
            f"all {len(data.train)} training rows have the label {', '.join(known)}; nothing can be told apart"
        )
    refuse_spellings([(row.place, label) for row in data.train for label in labels_of(row)])
    held_out = data.validation + data.test
    refuse_strange(
        [(row, label) for row in held_out for label in labels_of(row) if label not in known],
        NOT_LEARNT,
    )
    return tuple(sorted(known))


def span_metrics(
    given: Sequence[Sequence[str]], expected: Sequence[Sequence[str]], seed: int = 0
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Precision, recall and F1 of whole spans (micro), and the accuracy of single tags, with their intervals."""
    counts = np.array(
        [_counts(said, right) for said, right in zip(given, expected, strict=True)], dtype=float
    )
    # A share of what was said or meant, in each row: hits over spans said, over spans meant, over the mean of both.
    hits, said, meant, same, words = counts.T
    shares = {
        "span_f1": (hits, (said + meant) / 2),
        "span_precision": (hits, said),
        "span_recall": (hits, meant),
        "tag_accuracy": (same, words),
    }
    metrics = {
        name: float(above.sum() / below.sum()) if below.sum() else 0.0
        for name, (above, below) in shares.items()
    }
    return metrics, {name: of_ratio(above, below, seed) for name, (above, below) in shares.items()}


def _counts(given: Sequence[str], expected: Sequence[str]) -> tuple[int, int, int, int, int]:
    """Of one row: spans hit, said and meant; tags that are the same, and all."""
    said, meant = spans(given), spans(expected)
    same = sum(a == b for a, b in zip(given, expected, strict=True))
    return len(said & meant), len(said), len(meant), same, len(expected)
