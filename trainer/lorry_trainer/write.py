"""What an adapter folder holds, from the results of a run.

    adapter_config.json, adapter_model.safetensors   what PEFT and Lorry load
    recipe.yaml     the recipe with nothing left open      metrics.json   scores and losses
    lineage.json    where it comes from                    loss.png       the curve, with the step that was kept
    labels.json     the names of a head's outputs, in their order, where it classifies
    README.md       the same for people                    report.html    and all of it on one page

The same results give the same bytes in every file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry_trainer.card import card
from lorry_trainer.errors import TrainingError
from lorry_trainer.figures import words_of
from lorry_trainer.gate import shortfalls
from lorry_trainer.labels import LABELS_FILE
from lorry_trainer.likelihood import perplexity
from lorry_trainer.lineage import lineage, public_name
from lorry_trainer.prepare import Prepared
from lorry_trainer.resolve import to_yaml
from lorry_trainer.wording import counted

if TYPE_CHECKING:
    from lorry_trainer.objectives.contract import Scores
    from lorry_trainer.train import Outcome


@dataclass(frozen=True)
class Results:
    """What there is to write about."""

    model: Any  # the base's model with the adapter as it is published
    outcome: Outcome
    figures: dict[str, float]  # what the method tells
    before: Scores | None  # the bare base's; None without test rows
    shots: (
        Scores | None
    )  # the bare base's with solved examples before the question, where they are asked for
    after: Scores | None
    trained: (
        Scores | None
    )  # before the method made of it what is published, where that loses something
    general: tuple[float, float] | None  # loss on general text, before and after

    def metrics(self) -> dict[str, float]:
        """All finite ones: what is no number was not measured, and JSON has no word for it."""
        return {name: value for name, value in self._figures().items() if math.isfinite(value)}

    def _figures(self) -> dict[str, float]:
        metrics = dict(self.figures)
        for _, prefix, scores in self.columns():
            if scores is None:
                continue
            metrics |= {prefix + name: value for name, value in scores.metrics.items()}
            for name, (low, high) in scores.intervals.items():
                if name in scores.metrics:
                    metrics |= {f"{prefix}{name}_low": low, f"{prefix}{name}_high": high}
        if self.general:
            before, after = map(perplexity, self.general)
            metrics |= {"base_general_perplexity": before, "general_perplexity": after}
        if self.after:
            metrics["test_rows"] = len(self.after.answers)
        outcome = self.outcome
        metrics |= {f"train_{name}": value for name, value in outcome.reports.items()}
        if outcome.train_loss:
            metrics["train_loss"] = outcome.train_loss[-1][1]
        if outcome.validation_loss:
            last = outcome.validation_loss[-1][1]
            metrics["validation_loss"] = dict(outcome.validation_loss).get(outcome.kept_step, last)
        return metrics | {
            "steps": outcome.steps,
            "kept_step": outcome.kept_step,
            "train_tokens": outcome.tokens,
        }

    def columns(self) -> list[tuple[str, str, Scores | None]]:
        """What is compared: heading, prefix of its figures, scores."""
        return [
            ("base", "base_test_", self.before),
            ("base, shots", "base_shots_test_", self.shots),
            ("trained model", "trained_test_", self.trained),
            ("adapter", "test_", self.after),
        ]


def write(folder: Path, run: Prepared, results: Results) -> None:
    """All files, into an empty folder."""
    from lorry_bases import Quantization, fingerprint
    from lorry_trainer import report
    from lorry_trainer.plot import draw_loss, save

    base = run.base
    metrics = results.metrics()
    base_name = public_name(base.name)
    _save_adapter(results.model, folder, base_name, run.recipe.method)
    if run.recipe.objective in ("classification", "tokens"):
        names = base.model.config.id2label
        _write_json(folder / LABELS_FILE, [names[index] for index in range(len(names))])
    recipe_text = to_yaml(run.resolved)
    (folder / "recipe.yaml").write_text(recipe_text, encoding="utf-8")
    _write_json(folder / "metrics.json", metrics)
    # The base as it will be served, however it was held in training.
    served = Quantization()
    print_of_served = (
        base.fingerprint if base.quantization == served else fingerprint(base.path, served)
    )
    made = lineage(
        base_fingerprint=print_of_served,
        base_name=base_name,
        recipe=recipe_text,
        datasets=run.data.datasets,
        metrics=metrics,
    )
    _write_json(folder / "lineage.json", made)
    save(draw_loss(results.outcome, run.name), folder / "loss.png")
    before, after = results.before, results.after
    samples = (
        list(zip(run.test, before.answers, after.answers, strict=True)) if before and after else []
    )
    num_labels = base.model.config.num_labels
    text = card(run.name, run.recipe, base_name, run.data, metrics, samples, num_labels)
    (folder / "README.md").write_text(text, encoding="utf-8")
    missed = shortfalls(run.recipe.require, metrics)
    headings = [(heading, prefix) for heading, prefix, _ in results.columns()]
    others = {n: v for n, v in metrics.items() if not n.startswith(tuple(p for _, p in headings))}
    html = report.page(
        run.name,
        [
            f"<p>{escape(run.recipe.description)}</p>",
            f"<p>{escape(run.recipe.method)} on {escape(base_name)}; {counted(len(run.data.train), 'row')} to train "
            f"on, {len(run.data.validation)} to validate, {len(run.test)} to test. In brackets: 95 % by bootstrap.</p>",
            report.gate(missed, bool(run.recipe.require)),
            report.scores(metrics, headings),
            report.picture(draw_loss(results.outcome, "loss"), "loss by step"),
            report.table(["", ""], [[words_of(n), f"{v:.6g}"] for n, v in sorted(others.items())]),
            report.labels(after.judgement if after else None),
            report.samples(
                [(row.asked, row.answer, [("base", b), ("adapter", a)]) for row, b, a in samples]
            ),
            f"<h2>Recipe</h2><pre>{escape(recipe_text)}</pre>",
        ],
    )
    (folder / "report.html").write_text(html, encoding="utf-8")


def _save_adapter(model: Any, folder: Path, base_name: str, method: str) -> None:
    """The method's own files, less what differs from run to run: the machine's path, and the order of sets."""
    from lorry_trainer.methods import METHODS

    METHODS[method].save(model, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    if config.get("tokenizer_name_or_path"):
        config["tokenizer_name_or_path"] = base_name
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    _write_json(path, config)
    if not (folder / "adapter_model.safetensors").is_file():
        raise TrainingError(f"{method} wrote no adapter_model.safetensors")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
