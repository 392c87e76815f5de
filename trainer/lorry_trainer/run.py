"""The whole way from a recipe to an adapter folder, in numbered steps.

The same recipe, data and machine give the same bytes in every file of the folder (`write` lists them).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry_trainer.bases import Bases
from lorry_trainer.folder import appearing, refuse_taken
from lorry_trainer.prepare import Prepared, prepare, prepare_data
from lorry_trainer.progress import Progress, Silent
from lorry_trainer.recipe import Recipe

if TYPE_CHECKING:
    from lorry_trainer.objectives.contract import Scores


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
    bases: Bases | None = None,
) -> Result:
    """Train what `recipe` says. Relative data paths start at `folder`; `output` goes before the recipe's own. `bases`
    keeps what it has loaded for the next run.

    Raises RecipeError, DataError, TrainingError or OutputError. Nothing is written unless all of it succeeds.
    """
    progress = progress or Silent()
    clock = _Clock()

    # 1. What can be refused without loading the base; then the base, and the rows as it reads them.
    target = output or Path(recipe.output or f"adapters/{name}")
    refuse_taken(target, overwrite=overwrite)
    data = prepare_data(recipe, folder, progress)
    clock.lap("data")
    prepared = prepare(recipe, name, data, bases)
    clock.lap("base")

    # 2. Score the bare base, train, score the adapter: the same prompts.
    before = _score(prepared, prepared.base.model, progress, "scoring base")
    clock.lap("score_base")
    from lorry_trainer.methods import METHODS
    from lorry_trainer.train import train
    from lorry_trainer.write import Results, write

    method = METHODS[recipe.method]
    with tempfile.TemporaryDirectory(prefix="lorry-train-") as scratch:
        outcome = train(prepared, scratch=scratch, progress=progress)
    clock.lap("train")
    trained = None if method.exact else _score(prepared, outcome.model, progress, "scoring model")
    model, figures = method.finish(prepared.base, outcome.model, prepared.recipe)
    after = _score(prepared, model, progress, "scoring adapter")
    clock.lap("score_adapter")

    # 3. Write it all, at once.
    results = Results(model, outcome, figures, before, after, trained)
    with appearing(target, overwrite=overwrite) as partial:
        write(partial, prepared, results)
    if bases is not None:
        method.detach(prepared.base, model)
    clock.lap("write")
    return Result(target, results.metrics(), recipe.evaluation.metric, clock.laps)


def _score(run: Prepared, model: Any, progress: Progress, stage: str) -> Scores | None:
    if not run.test:
        return None
    progress.start(stage, len(run.test))
    return run.objective.score(run.base, model, run.test, run.recipe, progress)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 2), now
