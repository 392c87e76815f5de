"""Judge answers against what was expected: figures over all rows, how sure they are, and each label's own.

Intervals are percentile bootstraps over the rows (Efron 1979), seeded. Knows nothing about models: the answers may come
from one in this process or from a server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lorry_trainer.metrics import exact_match, normalised, token_f1

OTHER = "(no label)"  # what an answer counts as that is none of the labels
RESAMPLES = 1000
COVERAGE = 0.95


@dataclass(frozen=True)
class LabelFigures:
    precision: float
    recall: float
    f1: float
    rows: int  # that have the label


@dataclass(frozen=True)
class Judgement:
    metrics: dict[str, float]
    intervals: dict[
        str, tuple[float, float]
    ]  # 95 %, for the metrics that are means over rows, and F1
    per_label: dict[str, LabelFigures] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    confusion: list[list[int]] = field(
        default_factory=list
    )  # [expected, answered], labels and OTHER


def judge(
    answers: Sequence[str],
    expected: Sequence[str],
    labels: frozenset[str] = frozenset(),
    seed: int = 0,
) -> Judgement:
    """At least one row. With labels: accuracy, and precision, recall and F1 as means over the labels that rows have
    (macro). Without: ROUGE-L, BLEU and chrF, from 0 to 1."""
    rows = {
        "exact_match": _each(exact_match, answers, expected),
        "token_f1": _each(token_f1, answers, expected),
    }
    if labels:
        return _with_labels(answers, expected, labels, rows, seed)
    rows["rouge_l"] = _rouge_l(answers, expected)
    metrics = {name: float(values.mean()) for name, values in rows.items()}
    return Judgement(metrics | _corpus(answers, expected), intervals(rows, seed))


def _with_labels(
    answers: Sequence[str],
    expected: Sequence[str],
    labels: frozenset[str],
    rows: dict[str, np.ndarray],
    seed: int,
) -> Judgement:
    names = [*sorted(labels), OTHER]
    number = {name: i for i, name in enumerate(names)}
    wanted = np.array([number.get(normalised(e), len(labels)) for e in expected])
    got = np.array([number.get(normalised(a), len(labels)) for a in answers])
    table = _table(wanted, got, len(names))
    precision, recall, f1 = _rates(table)
    present = table.sum(axis=1) > 0
    metrics = {name: float(values.mean()) for name, values in rows.items()} | {
        "accuracy": float((wanted == got).mean()),
        "precision": float(precision[present].mean()),
        "recall": float(recall[present].mean()),
        "f1": float(f1[present].mean()),
    }

    def macro_f1(chosen: np.ndarray) -> float:
        some = _table(wanted[chosen], got[chosen], len(names))
        return float(_rates(some)[2][some.sum(axis=1) > 0].mean())

    sure = intervals(rows | {"accuracy": (wanted == got).astype(float)}, seed)
    sure["f1"] = interval(macro_f1, len(wanted), seed)
    per_label = {
        name: LabelFigures(float(precision[i]), float(recall[i]), float(f1[i]), int(table[i].sum()))
        for i, name in enumerate(names)
        if present[i]
    }
    return Judgement(metrics, sure, per_label, names, table.tolist())


def _table(wanted: np.ndarray, got: np.ndarray, size: int) -> np.ndarray:
    """[size, size]: how often `wanted` was answered as `got`."""
    return np.bincount(wanted * size + got, minlength=size * size).reshape(size, size)


def _rates(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each label; 0 where there is nothing to divide by."""
    hits = np.diag(table).astype(float)
    answered, wanted = table.sum(axis=0), table.sum(axis=1)
    precision = hits / np.maximum(answered, 1)
    recall = hits / np.maximum(wanted, 1)
    return precision, recall, 2 * hits / np.maximum(answered + wanted, 1)


def intervals(
    rows: Mapping[str, Sequence[float] | np.ndarray], seed: int
) -> dict[str, tuple[float, float]]:
    """Of means: by figure, its value in each row."""

    def mean_of(values: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda chosen: float(values[chosen].mean())

    return {
        name: interval(mean_of(np.asarray(of, dtype=float)), len(of), seed)
        for name, of in rows.items()
    }


def interval(figure: Callable[[np.ndarray], float], rows: int, seed: int) -> tuple[float, float]:
    """Of any figure, told for rows by their numbers; a choice of rows that has no such figure is told as NaN, and left
    out."""
    chance = np.random.default_rng(seed)
    found = [figure(chance.integers(0, rows, rows)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(found, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def _each(
    metric: Callable[[str, str], float], answers: Sequence[str], expected: Sequence[str]
) -> np.ndarray:
    return np.array([metric(a, e) for a, e in zip(answers, expected, strict=True)])


class _Words:
    """As ROUGE's own script, for words of every alphabet: that one knows `a` to `z`, and finds nothing in others."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _rouge_l(answers: Sequence[str], expected: Sequence[str]) -> np.ndarray:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return np.array(
        [scorer.score(e, a)["rougeL"].fmeasure for a, e in zip(answers, expected, strict=True)]
    )


def _corpus(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Figures of the whole, not means over rows, so without an interval."""
    from sacrebleu.metrics import BLEU, CHRF

    references = [list(expected)]
    scores = {"bleu": BLEU(effective_order=True), "chrf": CHRF()}
    return {
        # BLEU's is an exponential of logarithms, and rounds to more than all.
        name: min(1.0, metric.corpus_score(list(answers), references).score / 100)
        for name, metric in scores.items()
    }
