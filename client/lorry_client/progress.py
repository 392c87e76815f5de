"""How push and pull tell how far they are."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class FileState(StrEnum):
    """How a file got where it belongs."""

    EXISTS = "exists"  # it was there already
    PUSHED = "pushed"
    PULLED = "pulled"
    RESUMED = "resumed"  # the rest of it followed what an earlier attempt had left


class Progress(Protocol):
    """Listens to a push or a pull. Called from whichever thread does the work, never from two at once per file."""

    def start(self, path: str, size_bytes: int) -> None:
        """A file is part of the transfer; called for every file before the first byte moves."""

    def at(self, path: str, done_bytes: int) -> None:
        """So many of a file's bytes are there; it falls back where a broken connection took some with it."""

    def finish(self, path: str, state: FileState) -> None:
        """A file is where it belongs."""

    def skip(self, path: str, why: str) -> None:
        """A file of the folder is left out."""


class Silence:
    """Listens and says nothing."""

    def start(self, path: str, size_bytes: int) -> None: ...

    def at(self, path: str, done_bytes: int) -> None: ...

    def finish(self, path: str, state: FileState) -> None: ...

    def skip(self, path: str, why: str) -> None: ...
