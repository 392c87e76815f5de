"""What an adapter folder holds, from the results of a run.

    adapter_config.json, adapter_model.safetensors   what PEFT and Lorry load
    recipe.yaml     the recipe with nothing left open      metrics.json   scores and losses
    lineage.json    where it comes from                    loss.png       the curve, with the step that was kept
    README.md       the same for people

The same results give the same bytes in every file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry_trainer.card import card
from lorry_trainer.errors import TrainingError
from lorry_trainer.lineage import lineage
from lorry_trainer.prepare import Prepared
from lorry_trainer.resolve import to_yaml

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
    after: Scores | None
    trained: (
        Scores | None
    )  # before the method made of it what is published, where that loses something

    def metrics(self) -> dict[str, float]:
        metrics = dict(self.figures)
        for prefix, scores in (
            ("base_test_", self.before),
            ("test_", self.after),
            ("trained_test_", self.trained),
        ):
            if scores:
                metrics |= {prefix + name: value for name, value in scores.metrics.items()}
        if self.after:
            metrics["test_rows"] = len(self.after.answers)
        outcome = self.outcome
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


def write(folder: Path, run: Prepared, results: Results) -> None:
    """All files, into an empty folder."""
    from lorry_bases import Quantization, fingerprint
    from lorry_trainer.plot import plot_loss

    base = run.base
    metrics = results.metrics()
    base_name = public_name(base.name)
    _save_adapter(results.model, folder, base_name, run.recipe.method)
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
    plot_loss(results.outcome, run.name, folder / "loss.png")
    before, after = results.before, results.after
    samples = (
        list(zip(run.test, before.answers, after.answers, strict=True)) if before and after else []
    )
    text = card(run.name, run.recipe, base_name, run.data, metrics, samples)
    (folder / "README.md").write_text(text, encoding="utf-8")


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


def public_name(base: str) -> str:
    """A base's name for other machines: a path becomes the folder's name."""
    is_path = base.startswith((".", "/", "~")) or Path(base).is_dir()
    return Path(base).expanduser().resolve().name if is_path else base


def _write_json(path: Path, value: Any) -> None:
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
