"""The whole way from a recipe to an adapter folder, in numbered steps.

The same recipe, data and machine give the same bytes in every file of the folder (`write` lists them).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorry_trainer import processes
from lorry_trainer.bases import Bases
from lorry_trainer.folder import appearing, refuse_taken
from lorry_trainer.gate import shortfalls
from lorry_trainer.generation import as_in_training
from lorry_trainer.prepare import Prepared, prepare, prepare_data
from lorry_trainer.progress import Progress, Silent
from lorry_trainer.recipe import Recipe
from lorry_trainer.scoring import general_loss, read_general, score, score_base, score_with_shots
from lorry_trainer.unfinished import Unfinished

if TYPE_CHECKING:
    from lorry_trainer.write import Results


@dataclass(frozen=True)
class Result:
    folder: Path
    metrics: dict[str, float]
    metric: str  # the one that the recipe looks at first
    seconds: dict[str, float]  # wall time of each step
    missed: list[str]  # what falls short of the recipe's `require`


def run(
    recipe: Recipe,
    *,
    name: str,
    folder: Path,
    output: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    bases: Bases | None = None,
    resume: bool = False,
) -> Result | None:
    """Train what `recipe` says. Relative data paths start at `folder`; `output` goes before the recipe's own. `bases`
    keeps what it has loaded for the next run. `resume` goes on from the last checkpoint of a run that was broken off;
    the result is that of a run that was not, byte for byte. None in all processes but the first.

    Raises RecipeError, DataError, TrainingError or OutputError. The folder is not written unless all of it succeeds;
    until then checkpoints stand beside it.
    """
    progress = progress or Silent()
    clock = _Clock()
    processes.refuse_other_number(recipe.training.processes)

    # 1. What can be refused without loading the base; then the base, and the rows as it reads them.
    target = output or target_of(recipe, name)
    refuse_taken(target, overwrite=overwrite)
    data = prepare_data(recipe, folder, progress)
    clock.lap("data")
    prepared = prepare(recipe, name, data, bases, progress)
    general = read_general(prepared, folder)
    clock.lap("base")

    # 2. Score the bare base, train, score the adapter: the same prompts.
    if not processes.is_first():
        _train_along(prepared, target, shared=bases is not None)
        return None
    checkpoints = Unfinished(target, prepared)
    results = _trained(prepared, general, checkpoints, resume, progress, clock)

    # 3. Write it all, at once.
    from lorry_trainer.methods import METHODS
    from lorry_trainer.write import write

    metrics = results.metrics()
    with appearing(target, overwrite=overwrite) as partial:
        write(partial, prepared, results)
    checkpoints.discard()
    if bases is not None:
        METHODS[recipe.method].detach(prepared.base)
    clock.lap("write")
    missed = shortfalls(recipe.require, metrics)
    first = prepared.recipe.evaluation.metric or prepared.objective.metrics[0]
    return Result(target, metrics, first, clock.laps, missed)


def _trained(
    run: Prepared,
    general: list[tuple[list[int], int]],
    checkpoints: Unfinished,
    resume: bool,
    progress: Progress,
    clock: _Clock,
) -> Results:
    """What there is to write about: the scores before, the run, the scores after."""
    from lorry_trainer.methods import METHODS
    from lorry_trainer.train import train
    from lorry_trainer.write import Results

    method, bare = METHODS[run.recipe.method], run.base.model
    with as_in_training(bare):
        before = score_base(run, progress)
        shots = score_with_shots(run, progress, before)
        general_before = general_loss(run, bare, general)
    clock.lap("score_base")
    resume_from = checkpoints.open(resume=resume)
    on_cpu = bare.device.type == "cpu"
    processes.wait(on_cpu=on_cpu)  # for the folder of checkpoints too
    if resume_from:
        progress.say(f"goes on from {resume_from}")
    if checkpoints.abandoned:
        progress.say("begins anew; a run that was broken off here could have gone on with --resume")
    outcome = train(run, checkpoints=checkpoints.folder, progress=progress, resume_from=resume_from)
    processes.wait(on_cpu=on_cpu)  # others may still read the best checkpoint
    if outcome.stopped_early or outcome.kept_step != outcome.steps:
        early = " early" if outcome.stopped_early else ""
        steps = f"step {outcome.steps} of {run.resolved.total_steps}"
        progress.say(f"stopped{early} at {steps}; step {outcome.kept_step} is kept")
    clock.lap("train")
    with as_in_training(bare):
        whole = outcome.model
        trained = None if method.exact else score(run, whole, progress, "scoring model", before)
        model, figures = method.finish(run.base, whole, run.recipe)
        after = score(run, model, progress, "scoring adapter", before)
        general_after = general_loss(run, model, general)
    clock.lap("score_adapter")
    both = None
    if general_before is not None and general_after is not None:
        both = (general_before, general_after)
    return Results(model, outcome, figures, before, shots, after, trained, both)


def target_of(recipe: Recipe, name: str) -> Path:
    """The folder that a recipe of that name writes."""
    return Path(recipe.output or f"adapters/{name}")


def _train_along(prepared: Prepared, target: Path, *, shared: bool) -> None:
    """What the other processes of a run do, while the first does all the rest."""
    from lorry_trainer.methods import METHODS
    from lorry_trainer.train import train

    on_cpu = prepared.base.model.device.type == "cpu"
    processes.wait(on_cpu=on_cpu)
    checkpoints = Unfinished(target, prepared)
    train(
        prepared,
        checkpoints=checkpoints.folder,
        progress=Silent(),
        resume_from=checkpoints.last(),
    )
    processes.wait(on_cpu=on_cpu)
    if shared:
        METHODS[prepared.recipe.method].detach(prepared.base)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 2), now
