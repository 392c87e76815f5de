"""Pictures: the loss curve, the confusion of labels, a search. The same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from lorry_trainer.train import Outcome


def draw_loss(outcome: Outcome, title: str) -> Figure:
    """Training and validation loss by step, with the step whose adapter is kept, and where training stopped early."""
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for label, curve, style in (
        ("train", outcome.train_loss, "-"),
        ("validation", outcome.validation_loss, "o-"),
    ):
        if curve:
            axes.plot(*zip(*curve, strict=True), style, label=label, markersize=4)
    kept = f"kept: step {outcome.kept_step} of {outcome.steps}"
    axes.axvline(outcome.kept_step, linestyle="--", color="0.4", label=kept)
    if outcome.stopped_early:
        axes.axvline(outcome.steps, linestyle=":", color="tab:red", label="stopped early")
    axes.set(xlabel="step", ylabel="loss per learnt token", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_confusion(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> Figure:
    """Expected label down, answered label across."""
    size = min(14.0, 3 + 0.3 * len(labels))
    figure = Figure(figsize=(size, size), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.imshow(confusion, cmap="Blues")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set(xlabel="answered", ylabel="expected")
    if len(labels) <= 20:
        for row, counts in enumerate(confusion):
            for column, count in enumerate(counts):
                if count:
                    axes.text(column, row, str(count), ha="center", va="center", fontsize=7)
    return figure


def draw_search(
    keys: Sequence[str],
    params: Mapping[int, Mapping[str, object]],
    losses: Mapping[int, float | None],
    logarithmic: Collection[str] = (),
) -> Figure:
    """Validation loss of each trial that came to its end, once for every key that was searched; those that were drawn
    in orders of magnitude are shown so."""
    figure = Figure(figsize=(4 * max(1, len(keys)), 3.5), dpi=90, layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        tried = [trial for trial in losses if key in params[trial]]
        values = [params[trial][key] for trial in tried]
        numbers = all(isinstance(v, int | float) for v in values)
        axes.scatter(values if numbers else [str(v) for v in values], [losses[t] for t in tried])
        if key in logarithmic:
            axes.set_xscale("log")
        axes.set(xlabel=key, ylabel="validation loss")
        axes.grid(alpha=0.3)
    return figure


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})
