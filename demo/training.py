"""`lorry train` for several recipes at once, one process each, with all their bars in one place."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from lorry_trainer.run import Result


@dataclass(frozen=True)
class Told:
    """The trainer's progress, sent to the process that draws."""

    channel: Any
    recipe: str

    def start(self, stage: str, total: int) -> None:
        self.channel.put((self.recipe, {"description": stage, "total": total, "completed": 0}))

    def advance(self, count: int = 1, note: str = "") -> None:
        self.channel.put((self.recipe, {"advance": count, "note": note}))

    def say(self, line: str) -> None: ...


def train_all(recipes: Iterable[Path], folder: Path, console: Console) -> dict[str, Result]:
    """Trains every recipe into `folder/<its name>`, as many at once as there are cores."""
    context = multiprocessing.get_context("spawn")
    columns = (
        TextColumn("   {task.fields[recipe]:<13}{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool,
        Progress(*columns, console=console) as bars,
    ):
        channel = manager.Queue()
        rows: dict[str, TaskID] = {}
        runs = {}
        for recipe in recipes:
            name = recipe.stem
            rows[name] = bars.add_task("waiting", total=1, recipe=name, note="")
            runs[name] = pool.submit(_train, recipe, folder / name, Told(channel, name))
        while not all(run.done() for run in runs.values()) or not channel.empty():
            try:
                name, news = channel.get(timeout=0.2)
            except queue.Empty:
                continue
            bars.update(rows[name], **news)
        return {name: run.result() for name, run in runs.items()}


def _train(recipe: Path, output: Path, progress: Told) -> Result:
    from lorry_trainer.quiet import quiet_logs

    quiet_logs()
    from lorry_trainer.recipe_file import read_recipe
    from lorry_trainer.run import run

    return run(
        read_recipe(recipe),
        name=recipe.stem,
        folder=recipe.parent,
        output=output,
        progress=progress,
    )
