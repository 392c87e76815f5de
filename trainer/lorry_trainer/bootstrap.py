"""How sure a figure is: percentile bootstraps over the rows (Efron 1979), seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

RESAMPLES = 1000
COVERAGE = 0.95

Interval = tuple[float, float]
Figure = Callable[[np.ndarray], float]  # of the rows at these places, [rows] of int


def interval(
    figure: Figure, rows: int, seed: int, strata: Sequence[object] | None = None
) -> Interval:
    """With `strata`, a kind for each row, every resample has as many rows of each kind as there are."""
    [found] = intervals(lambda chosen: np.array([figure(chosen)]), rows, seed, strata)
    return found


def intervals(
    figures: Callable[[np.ndarray], np.ndarray],
    rows: int,
    seed: int,
    strata: Sequence[object] | None = None,
) -> list[Interval]:
    """Of several figures, [figures], that are made of the same rows."""
    chance = np.random.default_rng(seed)
    kinds = np.array([str(kind) for kind in strata]) if strata is not None else np.zeros(rows)
    parts = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    found = [
        figures(np.concatenate([part[chance.integers(0, len(part), len(part))] for part in parts]))
        for _ in range(RESAMPLES)
    ]
    bounds = np.quantile(found, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    return [(float(low), float(high)) for low, high in bounds.T]


def of_means(values: Mapping[str, Sequence[float] | np.ndarray], seed: int) -> dict[str, Interval]:
    """Of figures that are means over rows; `values` has each row's."""
    return {
        name: of_ratio(each, np.ones(len(each)), seed) for name, each in values.items() if len(each)
    }


def of_ratio(
    totals: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray, seed: int
) -> Interval:
    """Of a sum over a sum, such as the loss per token; both have a number for each row."""
    above, below = np.asarray(totals, dtype=float), np.asarray(counts, dtype=float)
    return interval(
        lambda rows: float(above[rows].sum() / max(below[rows].sum(), 1e-12)), len(above), seed
    )
