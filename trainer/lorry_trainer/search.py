"""A search over a recipe's values: Optuna proposes, each trial is a training run judged by its validation loss.

Trials that are worse than most at the same step are pruned. The study is a file in the search's folder: a search that
was broken off goes on with the trials that it lacks. Test rows are never looked at.
"""

from __future__ import annotations

import csv
import math
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from transformers import TrainerCallback

from lorry_trainer import processes
from lorry_trainer.bases import Bases
from lorry_trainer.errors import OutputError, RecipeError, TrainingError
from lorry_trainer.methods import METHODS
from lorry_trainer.moved import moved
from lorry_trainer.objectives import find
from lorry_trainer.prepare import prepare, prepare_data
from lorry_trainer.progress import Progress, Silent
from lorry_trainer.recipe import Recipe
from lorry_trainer.recipe.search import Choice, Range
from lorry_trainer.train import train

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_STUDY = "study.journal"
_FAILURE = "failure"  # of a trial: why it could not be trained


@dataclass(frozen=True)
class Found:
    recipe: Path  # the best trial's, with nothing left to search
    values: dict[str, Any]
    loss: float  # its best validation loss
    trials: int
    pruned: int


def search(
    recipe: Recipe, *, name: str, folder: Path, output: Path, progress: Progress | None = None
) -> Found:
    """Run the trials that `recipe.search` asks for and are not in `output` yet. Writes `trials.csv`, `search.png` and
    `best.yaml` there.

    Raises RecipeError (nothing to search, no validation rows), DataError, TrainingError or OutputError.
    """
    progress = progress or Silent()
    wanted = recipe.search
    if wanted is None:
        raise RecipeError("the recipe has no `search`; say which keys may take which values")
    if processes.count() > 1:
        raise RecipeError(
            f"{processes.count()} processes, and a search is for one alone; start it without a launcher"
        )
    processes.refuse_other_number(recipe.training.processes)
    if not find(recipe.objective).validates:
        raise RecipeError(
            f"trials are judged by their validation loss, and objective: {recipe.objective} has none; a search is for "
            "the others"
        )
    bases = Bases()
    if not prepare_data(recipe, folder, progress).validation:
        raise RecipeError("a search needs validation rows; raise data.splits.validation")
    for key, space in wanted.values.items():
        for value in _ends(space):
            _with(recipe, {key: value})
    study = _study(output, name, recipe)

    def objective(trial: optuna.Trial) -> float:
        values = {key: _propose(trial, key, space) for key, space in wanted.values.items()}
        progress.say(f"trial {trial.number}: {_shown(values)}")
        try:
            return _loss(_with(recipe, values), name, folder, bases, progress, trial)
        except TrainingError as error:
            progress.say(f"trial {trial.number} failed: {error}")
            trial.set_user_attr(_FAILURE, str(error))
            raise

    def write() -> None:
        best = moved(_with(recipe, study.best_params), folder, output)
        _write(output, study, best, [k for k, s in wanted.values.items() if _is_log(s)])

    done = [trial for trial in study.trials if _has_ended(trial)]
    for number in range(len(done), wanted.trials):
        # Drawn by the trial's own seed: a search that goes on would else propose its first trials once more.
        seed = random.Random(f"{recipe.training.seed}:{number}").getrandbits(32)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        study.optimize(objective, n_trials=1, catch=(TrainingError,))
        if _finished(study):
            write()
    if not _finished(study):
        raise TrainingError("no trial came to its end; look at the ranges, learning rates first")
    write()
    progress.say(f"best: {_shown(study.best_params)}, validation loss {study.best_value:.4g}")
    pruned = sum(t.state == TrialState.PRUNED for t in study.trials)
    return Found(
        output / "best.yaml", study.best_params, study.best_value, len(study.trials), pruned
    )


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE]


def _has_ended(trial: optuna.trial.FrozenTrial) -> bool:
    """One that was broken off has not; one that failed would fail again."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return trial.state in ended or _FAILURE in trial.user_attrs


def _study(output: Path, name: str, recipe: Recipe) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what fails is told here, in a line
    assert recipe.search is not None
    try:
        output.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(output / _STUDY)))
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror}") from error
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
        load_if_exists=True,
    )
    asked = recipe.model_dump_json(exclude={"search": {"trials"}, "output": True})
    if study.user_attrs.get("recipe", asked) != asked:
        raise RecipeError(
            f"{output} holds a search of another recipe; choose another --output, or remove it"
        )
    study.set_user_attr("recipe", asked)
    return study


def _is_log(space: Range | Choice) -> bool:
    return isinstance(space, Range) and space.log


def _ends(space: Range | Choice) -> tuple[Any, ...]:
    """Values of which one is refused where any is."""
    if isinstance(space, Choice):
        return space.choices
    return (math.ceil(space.min), math.floor(space.max)) if space.whole else (space.min, space.max)


def _propose(trial: optuna.Trial, key: str, space: Range | Choice) -> Any:
    if isinstance(space, Choice):
        return trial.suggest_categorical(key, list(space.choices))
    if space.whole:
        return trial.suggest_int(key, math.ceil(space.min), math.floor(space.max), log=space.log)
    return trial.suggest_float(key, space.min, space.max, log=space.log)


def _with(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with these values and nothing left to search. Raises RecipeError where a value cannot be."""
    from lorry_trainer.recipe_file import parse_recipe

    made = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"search"})
    for key, value in values.items():
        section, _, field = key.rpartition(".")
        if section:
            made.setdefault(section, {})[field] = value
        else:
            made[field] = value
    return parse_recipe(yaml.safe_dump(made), "search")


def _loss(
    recipe: Recipe,
    name: str,
    folder: Path,
    bases: Bases,
    progress: Progress,
    trial: optuna.Trial,
) -> float:
    run = prepare(recipe, name, prepare_data(recipe, folder, Silent()), bases)
    watch = _Watch(trial)
    try:
        with tempfile.TemporaryDirectory(prefix="lorry-search-") as scratch:
            outcome = train(run, checkpoints=Path(scratch), progress=progress, callbacks=[watch])
    finally:
        METHODS[recipe.method].detach(run.base)
    if watch.pruned:
        raise optuna.TrialPruned
    return min(loss for _, loss in outcome.validation_loss)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Tells Optuna each validation loss, and ends the training that it gives up."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self.pruned = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        self._trial.report(metrics["eval_loss"], state.global_step)
        if self._trial.should_prune():
            self.pruned = control.should_training_stop = True


def _write(
    output: Path, study: optuna.Study, best: dict[str, Any], logarithmic: Collection[str]
) -> None:
    from lorry_trainer.plot import draw_search, save

    keys = sorted({key for trial in study.trials for key in trial.params})
    with (output / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", "validation_loss", *keys])
        for trial in study.trials:
            row = [trial.number, trial.state.name.lower(), trial.value]
            table.writerow([*row, *(trial.params.get(key) for key in keys)])
    losses = {t.number: t.value for t in study.trials if t.state == TrialState.COMPLETE}
    params = {t.number: t.params for t in study.trials}
    save(draw_search(keys, params, losses, logarithmic), output / "search.png")
    text = yaml.safe_dump(best, sort_keys=False, allow_unicode=True)
    (output / "best.yaml").write_text(text, encoding="utf-8")


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )
