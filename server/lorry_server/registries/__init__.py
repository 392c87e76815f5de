"""Where versions are looked up and their bytes read: what a server asks of a registry, here or elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorry_registry.canaries import choose, heaviest
from lorry_registry.entities import AdapterKey, Base, Deprecation, File
from lorry_registry.watching import Batch


@dataclass(frozen=True, slots=True)
class Published:
    """A version, as far as serving it needs."""

    key: AdapterKey
    number: int
    digest: str
    base_fingerprint: str
    base_name: str
    max_rank: int
    files: tuple[File, ...]
    deprecation: Deprecation | None = None
    block_reason: str | None = None  # None: it may be used

    @property
    def reference(self) -> str:
        """Means the same bytes for ever."""
        return f"{self.key}@{self.digest}"

    @property
    def short_reference(self) -> str:
        return f"{self.key}:{self.number}"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reference means: versions with their shares of the requests, at least one."""

    versions: tuple[tuple[Published, int], ...]
    salt: str

    @property
    def key(self) -> AdapterKey:
        return self.versions[0][0].key  # an alias points at versions of its own adapter alone

    def choose(self, sticky_key: bytes | None) -> Published:
        """The version that a request with the key gets; without a key, the one that most requests get.

        A blocked one gets none, as long as there is another: its keys fall to the rest by their weights.
        """
        open_ones = [one for one in self.versions if one[0].block_reason is None] or self.versions
        if sticky_key is None:
            at = heaviest([weight for _, weight in open_ones])
        else:
            shares = [(version.digest, weight) for version, weight in open_ones]
            at = choose(shares, salt=self.salt, key=sticky_key)
        return open_ones[at][0]


@dataclass(frozen=True, slots=True)
class AdapterNames:
    """A page of adapters that have a version for a base."""

    keys: tuple[AdapterKey, ...]
    next_page_token: str


class Registry(Protocol):
    """What a server asks of a registry. Coroutines never block; whatever fails is a LorryError.

    Unavailable means that the registry is away and that the question may have an answer.
    """

    name: str
    """Where it is, for people: `HOST:PORT`, or `here`."""

    async def expand(self, reference: str) -> Meaning:
        """What a reference means now."""
        ...

    async def position(self) -> int:
        """How far the events go now."""
        ...

    def watch(self, resume_token: str, heartbeat_seconds: float) -> AsyncIterator[Batch]:
        """The events after the token's, for ever; see `lorry_registry.watching`."""
        ...

    async def adapters_for(
        self, base_fingerprint: str, *, namespace: str | None, limit: int, page_token: str
    ) -> AdapterNames:
        """In the order of their names; of all namespaces for None."""
        ...

    async def create_base(self, base: Base) -> None:
        """Makes the server's base known, so that uploads are checked against it."""
        ...

    def fetch_blob(self, file: File, target: Path) -> None:
        """Puts a file's bytes, which match its digest, at `target`. Blocks; called on the engine's loader threads.

        Raises DataLoss where the bytes are not the file's, OSError where `target` cannot be written.
        """
        ...

    def interrupt(self) -> None:
        """Ends what `fetch_blob` does on any thread, now and from now on: the server stops."""
        ...
