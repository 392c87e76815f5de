"""What push and pull return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorry_client.progress import FileState

if TYPE_CHECKING:
    from lorry_client.results.catalogue import Alias, Version


@dataclass(frozen=True, slots=True)
class TransferredFile:
    """A file that was pushed or pulled, and how it got there."""

    path: str
    digest: str
    size_bytes: int
    state: FileState


@dataclass(frozen=True, slots=True)
class Pushed:
    """A published version.

    Attributes:
        reference: `namespace/name@sha256:…`.
        alias: the alias that points at it now, where one was asked for.
        skipped: files of the folder that were left out.
        warnings: what speaks against its being what it is taken for.
    """

    reference: str
    version: Version
    alias: Alias | None
    files: tuple[TransferredFile, ...]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulled:
    """A version's files in a folder."""

    reference: str
    version: Version
    folder: str
    files: tuple[TransferredFile, ...]
