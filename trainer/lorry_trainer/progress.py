"""Progress of a run: stages that have a length, and a note beside each (loss, tokens per second)."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars

_LINE_EVERY = 30.0  # seconds, where there is no terminal for a bar to move on


class Progress(Protocol):
    def start(self, stage: str, total: int) -> None:
        """Begin a stage of `total` units; the one before is over."""
        ...

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done. An empty note leaves the last one standing."""
        ...

    def say(self, line: str) -> None:
        """Something that the user should know."""
        ...


class Silent:
    def start(self, stage: str, total: int) -> None: ...
    def advance(self, count: int = 1, note: str = "") -> None: ...
    def say(self, line: str) -> None: ...


class Bars:
    """One bar per stage on a console, and a line now and then in a file or a pipe; used as a context manager."""

    def __init__(self, console: Console) -> None:
        self._bars = RichBars(
            TextColumn("{task.description:<15}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def start(self, stage: str, total: int) -> None:
        self.finish()
        self._task = self._bars.add_task(stage, total=total, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, advance=count)
            if note:
                self._bars.update(self._task, note=note)
            if not self._bars.console.is_terminal and time.monotonic() - self._told >= _LINE_EVERY:
                self._tell()

    def say(self, line: str) -> None:
        self._bars.console.print(line, highlight=False, markup=False)

    def finish(self) -> None:
        """A stage that ended early (early stopping) is done all the same."""
        if self._task is not None:
            self._bars.update(self._task, total=self._current().completed)

    def _current(self) -> Task:
        return next(task for task in self._bars.tasks if task.id == self._task)

    def _tell(self) -> None:
        task = self._current()
        parts = [task.description, f"{task.completed:.0f}/{task.total:.0f}", task.fields["note"]]
        if (left := task.time_remaining) is not None:
            parts.append(f"{timedelta(seconds=round(left))} left")
        self.say("  ".join(part for part in parts if part))
        self._told = time.monotonic()
