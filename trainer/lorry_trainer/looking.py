"""Look at a run without running it: everything that can be refused is, rows can be seen, and the run is foreseen."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorry_trainer.forecast import Forecast, forecast
from lorry_trainer.prepare import prepare, prepare_data
from lorry_trainer.progress import Progress
from lorry_trainer.recipe import Recipe
from lorry_trainer.train import make_trainer

if TYPE_CHECKING:
    from lorry_trainer.objectives.contract import Segments


@dataclass(frozen=True)
class Seen:
    forecast: Forecast
    rows: list[Segments]  # the first training rows as they are learnt
    notes: list[str]  # what was found in the data


def look(recipe: Recipe, name: str, folder: Path, progress: Progress, rows: int = 0) -> Seen:
    """Raises RecipeError or DataError, as `run` would before it trains."""
    data = prepare_data(recipe, folder, progress)
    run = prepare(recipe, name, data, progress=progress)
    few = replace(run, data=replace(run.data, train=run.data.train[: max(rows, 1)], validation=[]))
    with tempfile.TemporaryDirectory(prefix="lorry-look-") as scratch:
        trainer = make_trainer(few, scratch, watched=False)
        shown = run.objective.preview(trainer)[:rows] if rows else []
    return Seen(forecast(run, trainer.model), shown, run.data.notes)
