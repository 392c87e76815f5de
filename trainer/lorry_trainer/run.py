"""The whole way from a recipe to an adapter folder, in numbered steps.

    adapter_config.json, adapter_model.safetensors   what PEFT and Lorry load
    recipe.yaml     the recipe with nothing left open      metrics.json   scores and losses
    lineage.json    where it comes from                    loss.png       the curve, with the step that was kept
    README.md       the same for people

The same recipe, data and machine give the same bytes in every file.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry_trainer.data import Examples, choose, load, refuse_long_rows
from lorry_trainer.errors import RecipeError, TrainingError
from lorry_trainer.folder import appearing, refuse_taken
from lorry_trainer.formats.contract import Example
from lorry_trainer.lineage import lineage
from lorry_trainer.objectives import OBJECTIVES, find
from lorry_trainer.progress import Progress, Silent
from lorry_trainer.recipe import Recipe
from lorry_trainer.resolve import Facts, Resolved, resolve, to_yaml

if TYPE_CHECKING:
    from lorry_bases.load import Base
    from lorry_trainer.objectives.contract import Objective, Scores
    from lorry_trainer.train import Outcome


@dataclass(frozen=True)
class Result:
    folder: Path
    metrics: dict[str, float]
    metric: str  # the one that the recipe looks at first
    seconds: dict[str, float]  # wall time of each step


def run(
    recipe: Recipe,
    *,
    name: str,
    folder: Path,
    output: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Train what `recipe` says. Relative data paths start at `folder`; `output` goes before the recipe's own.

    Raises RecipeError, DataError, TrainingError or OutputError. Nothing is written unless all of it succeeds.
    """
    progress = progress or Silent()
    clock = _Clock()

    # 1. What can be refused without loading the base.
    target = output or Path(recipe.output or f"adapters/{name}")
    refuse_taken(target, overwrite=overwrite)
    data = load(recipe.data, folder, recipe.training.seed, OBJECTIVES[recipe.objective])
    if data.dropped:
        progress.say(
            f"{data.dropped} training rows ask what a held-out row asks; left out of training"
        )
    clock.lap("data")

    # 2. The base, and the rows as it reads them.
    objective = find(recipe.objective)
    base = _load_base(recipe, objective, data)
    objective.refuse(base, data)
    limit = _longest_row(recipe, base)
    refuse_long_rows(data.all(), limit, lambda rows: objective.lengths(base, rows))
    resolved = resolve(recipe, _facts(recipe, name, base, data, objective))
    recipe = resolved.recipe
    clock.lap("base")

    # 3. Score the bare base, train, score the adapter: the same prompts.
    test = choose(data.test, recipe.evaluation.max_rows, recipe.training.seed)
    before = _score(objective, base, base.model, test, recipe, progress, "scoring base")
    clock.lap("score_base")
    from lorry_trainer.train import train

    with tempfile.TemporaryDirectory(prefix="lorry-train-") as scratch:
        outcome = train(
            objective,
            base,
            resolved,
            data.train,
            data.validation,
            scratch=scratch,
            progress=progress,
        )
    clock.lap("train")
    after = _score(objective, base, outcome.model, test, recipe, progress, "scoring adapter")
    clock.lap("score_adapter")

    # 4. Write it all, at once.
    metrics = _metrics(before, after, outcome, len(test))
    with appearing(target, overwrite=overwrite) as partial:
        _write(partial, name, resolved, base, data, outcome, metrics, test, before, after)
    clock.lap("write")
    return Result(target, metrics, recipe.evaluation.metric, clock.laps)


def _load_base(recipe: Recipe, objective: Objective, data: Examples) -> Base:
    import torch

    from lorry_bases import BaseNotFound
    from lorry_bases.load import BaseRefused
    from lorry_trainer.methods import METHODS

    device = recipe.training.device
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "training.device is cuda, and this machine has none that torch can use; set it to auto"
        )
    try:
        return objective.load(
            recipe,
            data,
            METHODS[recipe.method].quantization(recipe),
            None if device == "auto" else device,
        )
    except (BaseNotFound, BaseRefused) as error:
        raise RecipeError(f"base: {error}") from error


def _longest_row(recipe: Recipe, base: Base) -> int:
    wanted = recipe.data.max_length or base.context_length
    if wanted > base.context_length:
        raise RecipeError(
            f"data.max_length is {wanted}, and {base.name!r} takes {base.context_length} tokens at most"
        )
    return wanted


def _facts(recipe: Recipe, name: str, base: Base, data: Examples, objective: Objective) -> Facts:
    return Facts(
        name=name,
        device=base.model.device.type,
        context_length=base.context_length,
        format=data.format,
        train_rows=len(data.train),
        longest_answer=objective.answer_length(base, data.train),
    )


def _score(
    objective: Objective,
    base: Base,
    model: Any,
    test: list[Example],
    recipe: Recipe,
    progress: Progress,
    stage: str,
) -> Scores | None:
    if not test:
        return None
    progress.start(stage, len(test))
    return objective.score(base, model, test, recipe, progress)


def _metrics(
    before: Scores | None, after: Scores | None, outcome: Outcome, rows: int
) -> dict[str, float]:
    metrics = dict(outcome.figures)
    if before and after:
        metrics |= {f"base_test_{name}": value for name, value in before.metrics.items()}
        metrics |= {f"test_{name}": value for name, value in after.metrics.items()}
        metrics["test_rows"] = rows
    if outcome.train_loss:
        metrics["train_loss"] = outcome.train_loss[-1][1]
    if outcome.validation_loss:
        kept = dict(outcome.validation_loss).get(outcome.kept_step, outcome.validation_loss[-1][1])
        metrics["validation_loss"] = kept
    return metrics | {
        "steps": outcome.steps,
        "kept_step": outcome.kept_step,
        "train_tokens": outcome.tokens,
    }


def _write(
    folder: Path,
    name: str,
    resolved: Resolved,
    base: Base,
    data: Examples,
    outcome: Outcome,
    metrics: dict[str, float],
    test: list[Example],
    before: Scores | None,
    after: Scores | None,
) -> None:
    from lorry_bases import Quantization, fingerprint
    from lorry_trainer.card import card
    from lorry_trainer.plot import plot_loss

    base_name = public_name(base.name)
    _save_adapter(outcome.model, folder, base_name, resolved.recipe)
    recipe_text = to_yaml(resolved)
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
        datasets=data.datasets,
        metrics=metrics,
    )
    _write_json(folder / "lineage.json", made)
    plot_loss(outcome, name, folder / "loss.png")
    samples = (
        list(zip(test, before.answers, after.answers, strict=True)) if before and after else []
    )
    text = card(name, resolved.recipe, base_name, data, metrics, samples)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _save_adapter(model: Any, folder: Path, base_name: str, recipe: Recipe) -> None:
    """The method's own files, less what differs from run to run: the machine's path, and the order of sets."""
    from lorry_trainer.methods import METHODS

    METHODS[recipe.method].save(model, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    _write_json(path, config)
    if not (folder / "adapter_model.safetensors").is_file():
        raise TrainingError(f"{recipe.method} wrote no adapter_model.safetensors")


def public_name(base: str) -> str:
    """A base's name for other machines: a path becomes the folder's name."""
    is_path = base.startswith((".", "/", "~")) or Path(base).is_dir()
    return Path(base).expanduser().resolve().name if is_path else base


def _write_json(path: Path, value: Any) -> None:
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 2), now
