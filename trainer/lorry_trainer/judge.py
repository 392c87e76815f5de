"""Judge answers against what was expected: figures over all rows, how sure they are, and each label's own.

Knows nothing about models: the answers may come from one in this process or from a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from lorry_trainer import bootstrap
from lorry_trainer.bootstrap import Interval
from lorry_trainer.metrics import UNSPACED, exact_match, normalised, share_in, token_f1, words

OF_LABELS = ("accuracy", "precision", "recall", "f1")  # figures of answers that are labels
OF_TEXT = ("rouge_l", "bleu", "chrf")  # and of those that are not
OTHER = "(no label)"  # what an answer counts as that is none of the labels


@dataclass(frozen=True)
class LabelFigures:
    precision: float
    recall: float
    f1: float
    rows: int  # that have the label


@dataclass(frozen=True)
class Judgement:
    metrics: dict[str, float]
    intervals: dict[str, Interval]  # 95 %
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
    whole, sure = _corpus(answers, expected, seed)
    return Judgement(metrics | whole, bootstrap.of_means(rows, seed) | sure)


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

    def macro(chosen: np.ndarray) -> np.ndarray:
        some = _table(wanted[chosen], got[chosen], len(names))
        means: np.ndarray = np.stack(_rates(some))[:, some.sum(axis=1) > 0].mean(axis=1)
        return means

    right = (wanted == got).astype(float)
    sure = bootstrap.of_means(rows | {"accuracy": right}, seed)
    macros = bootstrap.intervals(macro, len(wanted), seed)
    sure |= dict(zip(("precision", "recall", "f1"), macros, strict=True))
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


def _each(
    metric: Callable[[str, str], float], answers: Sequence[str], expected: Sequence[str]
) -> np.ndarray:
    return np.array([metric(a, e) for a, e in zip(answers, expected, strict=True)])


class _Words:
    """As ROUGE's own script, for words of every alphabet: that one knows `a` to `z`, and finds nothing in others."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _rouge_l(answers: Sequence[str], expected: Sequence[str]) -> np.ndarray:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return np.array(
        [scorer.score(e, a)["rougeL"].fmeasure for a, e in zip(answers, expected, strict=True)]
    )


def _corpus(
    answers: Sequence[str], expected: Sequence[str], seed: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Figures of the whole, not means over rows."""
    from sacrebleu.metrics import BLEU, CHRF

    figures: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    bleu = BLEU(effective_order=True, tokenize=_tokenizer(expected))
    for name, metric in {"bleu": bleu, "chrf": CHRF()}.items():
        # Each row's counts, of which the figure is made. sacrebleu's own bootstrap breaks off at an empty answer.
        counts = np.array(metric._extract_corpus_statistics(list(answers), [list(expected)]))
        of = partial(_from_counts, metric, counts)
        figures[name] = of(np.arange(len(counts)))
        intervals[name] = bootstrap.interval(of, len(counts), seed)
    return figures, intervals


def _tokenizer(expected: Sequence[str]) -> str | None:
    """sacrebleu's for the script that most words are in: its default knows blanks alone."""
    if share_in(UNSPACED, expected) <= 0.5:
        return None
    others = [script for script in UNSPACED if script != "Han"]
    return "zh" if share_in(others, expected) < 0.05 else "char"


def _from_counts(metric: Any, counts: np.ndarray, rows: np.ndarray) -> float:
    score = metric._compute_score_from_stats(counts[rows].sum(axis=0).tolist()).score
    # BLEU's is an exponential of logarithms, and rounds to more than all.
    return min(1.0, float(score) / 100)
