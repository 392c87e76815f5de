"""Progress on stderr: a bar per file, with its state in a word, as `docker push` does it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from lorry_client.progress import FileState


class Bars:
    """A bar per file, for as long as the context lasts."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

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

    def start(self, path: str, size_bytes: int) -> None:
        self._tasks[path] = self._bars.add_task(escape(path), total=size_bytes, state="waiting")

    def at(self, path: str, done_bytes: int) -> None:
        self._bars.update(self._tasks[path], completed=done_bytes, state="moving")

    def finish(self, path: str, state: FileState) -> None:
        task = self._tasks[path]
        total = self._bars.tasks[task].total
        self._bars.update(task, completed=total, state=state.value)

    def skip(self, path: str, why: str) -> None:
        self._bars.console.print(f"skipped {path}: {why}", markup=False, highlight=False)
