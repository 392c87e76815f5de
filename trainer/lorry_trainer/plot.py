"""The loss curve as a picture. The same numbers give the same bytes."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from lorry_trainer.train import Outcome


def plot_loss(outcome: Outcome, title: str, path: Path) -> None:
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for label, curve, style in (
        ("train", outcome.train_loss, "-"),
        ("validation", outcome.validation_loss, "o-"),
    ):
        if curve:
            axes.plot(*zip(*curve, strict=True), style, label=label, markersize=4)
    axes.axvline(
        outcome.kept_step,
        linestyle="--",
        color="0.4",
        label=f"kept: step {outcome.kept_step} of {outcome.steps}",
    )
    axes.set(xlabel="step", ylabel="loss per learnt token", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", metadata={"Software": None})
