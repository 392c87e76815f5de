"""What upkeep asks of the place that keeps the rows. As in `store`, each verb is one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from lorry_registry.entities import AdapterKey, Version


@dataclass(frozen=True, slots=True)
class UsedFile:
    """A blob that a version names. `position` is its place in the order of `used_files`."""

    digest: str
    size_bytes: int
    key: AdapterKey
    number: int
    position: tuple[str, int, str]


class UpkeepStore(Protocol):
    """Blobs, as far as rows name them, and rows whose time is up."""

    def purge_expired(self, now: datetime, *, dry_run: bool) -> int:
        """Purges what was deleted and is due, but for versions that an alias points at; returns how many."""
        ...

    def unused_blobs(self, digests: Sequence[str]) -> list[str]:
        """Those of the digests that no version names, in order."""
        ...

    def discard_blobs(
        self, digests: Sequence[str], delete_blob: Callable[[str], None]
    ) -> list[str]:
        """Calls `delete_blob` for those that no version names, and returns them; meanwhile no version is created."""
        ...

    def used_files(self, after: tuple[str, int, str] | None, *, limit: int) -> list[UsedFile]:
        """The files of all versions in the order of digests; `after` is the position of one."""
        ...

    def versions_after(self, after: int, *, limit: int) -> list[tuple[int, Version]]:
        """The versions of all adapters, each with its place in an order of no meaning, after a place; 0 begins."""
        ...
