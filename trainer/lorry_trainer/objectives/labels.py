"""Label sets: which labels the rows have, and how well spans of them were found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example

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


def span_metrics(
    given: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of whole spans (micro), and the accuracy of single tags."""
    said = {(row, *span) for row, tags in enumerate(given) for span in spans(tags)}
    right = {(row, *span) for row, tags in enumerate(expected) for span in spans(tags)}
    hits = len(said & right)
    precision = hits / len(said) if said else 0.0
    recall = hits / len(right) if right else 0.0
    pairs = [pair for a, b in zip(given, expected, strict=True) for pair in zip(a, b, strict=True)]
    return {
        "span_f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "span_precision": precision,
        "span_recall": recall,
        "tag_accuracy": sum(a == b for a, b in pairs) / len(pairs),
    }
