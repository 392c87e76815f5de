"""Label sets: which labels the rows have, and how well spans of them were found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.judge import Judgement, interval

LabelsOf = Callable[[Example], Iterable[str]]


def label_set(data: Examples, labels_of: LabelsOf) -> tuple[str, ...]:
    """The labels of the training rows, in order. Raises DataError where a held-out row has another, or all have one."""
    known = {label for row in data.train for label in labels_of(row)}
    if len(known) < 2:
        raise DataError(
            f"all {len(data.train)} training rows have the label {', '.join(known)}; nothing can be told apart"
        )
    for row in data.validation + data.test:
        for label in labels_of(row):
            if label not in known:
                raise DataError(
                    f"{row.place}: no training row has the label {label!r}, so it cannot be learnt; add some, correct "
                    f"it, or take the row out (known: {', '.join(sorted(known)[:12])})"
                )
    return tuple(sorted(known))


Span = tuple[int, int, str]  # first word, the one after the last, kind


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans that tags mark, by the rules of CoNLL: `B-x` begins one, `I-x` goes on or begins one, `O` is none."""
    found: set[Span] = set()
    start, kind = 0, ""
    for at, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            found.add((start, at, kind))
            kind = ""
        if mark in ("B", "I") and name and not kind:
            start, kind = at, name
    return found


def judge_spans(
    given: Sequence[Sequence[str]], expected: Sequence[Sequence[str]], seed: int = 0
) -> Judgement:
    """Precision, recall and F1 of whole spans (micro), and the accuracy of single tags. At least one row."""
    counts = np.array([_counts(*row) for row in zip(given, expected, strict=True)])
    metrics = _rates(counts)

    def f1(chosen: np.ndarray) -> float:
        return _rates(counts[chosen])["span_f1"]

    return Judgement(metrics, {"span_f1": interval(f1, len(counts), seed)})


def _counts(given: Sequence[str], expected: Sequence[str]) -> tuple[int, ...]:
    """Of a row: spans found, spans given, spans expected; tags found, tags."""
    said, right = spans(given), spans(expected)
    hits = sum(a == b for a, b in zip(given, expected, strict=True))
    return len(said & right), len(said), len(right), hits, len(expected)


def _rates(counts: np.ndarray) -> dict[str, float]:
    """`counts` is [rows, 5]."""
    hits, said, right, tags, of = (int(total) for total in counts.sum(axis=0))
    return {
        "span_f1": 2 * hits / (said + right) if said + right else 0.0,
        "span_precision": hits / said if said else 0.0,
        "span_recall": hits / right if right else 0.0,
        "tag_accuracy": tags / of,
    }
