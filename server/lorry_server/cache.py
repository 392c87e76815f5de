"""The adapters that are at hand: one folder for each digest, within a budget of bytes. The engine loads from here.

    <home>/cache/<hex>/

A folder appears by a rename once every file is there, its digest holds and it is on the disk; what a crash leaves
behind never counts. Several servers may share a home: what another one removed is brought again.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lorry_registry.digests import digest_file
from lorry_registry.entities import AdapterKey, File
from lorry_registry.errors import FailedPrecondition, LorryError, NotFound, ResourceExhausted
from lorry_registry.references import parse_reference
from lorry_registry.signatures import SignaturePolicy
from lorry_server import cached
from lorry_server.cached import Facts
from lorry_server.config import DEFAULT_CACHE_BYTES
from lorry_server.engine.adapters.recipe import Recipe
from lorry_server.registries import Published, Registry
from lorry_server.remembering import remember

_log = logging.getLogger(__name__)

_PARTIAL = ".partial-"
_LEFT_BEHIND_SECONDS = 3600.0  # a younger one may be another server's, which shares the home
_MAX_EXPECTED = 10_000
_IN_USE_SECONDS = 60.0  # what was asked for since may be on its way to a slot


@dataclass(slots=True)
class OnDisk:
    """An adapter whose files are here."""

    digest: str
    reference: str  # `namespace/name:3`; empty where it is not known, or no longer true
    rank: int
    size_bytes: int
    last_used: float  # seconds since the epoch
    own_bytes: int  # what removing it frees


class AdapterCache:
    """The engine's AdapterSource. Any method may be called from any thread; each digest is brought once."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        max_bytes: int = DEFAULT_CACHE_BYTES,
        signatures: SignaturePolicy | None = None,
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._max_bytes = max_bytes
        self._signatures = signatures or SignaturePolicy()
        self._in_memory: Callable[[], Collection[str]] = tuple
        self._lock = threading.Lock()
        self._bringing: dict[str, threading.Lock] = {}
        self._expected: OrderedDict[str, Published] = OrderedDict()  # least recently asked first
        self._recipes: OrderedDict[str, Recipe] = OrderedDict()  # least recently asked first
        self._here: OrderedDict[str, OnDisk] = OrderedDict()  # least recently used first
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take_stock()
        except OSError as error:
            raise FailedPrecondition(
                f"The server's home {folder.parent} cannot be written to ({error.strerror}): choose another with "
                "--home, or correct its permissions.",
                reason="HOME_UNWRITABLE",
                home=folder.parent,
            ) from error

    def keep(self, in_memory: Callable[[], Collection[str]]) -> None:
        """Tells how to learn what the engine holds: that is never removed."""
        self._in_memory = in_memory

    def expect(self, published: Published) -> None:
        """Tells what a digest is made of, before the engine asks for it."""
        with self._lock:
            remember(self._expected, published.digest, published, _MAX_EXPECTED)
            self._touch(published.digest)

    def expect_composition(self, recipe: Recipe) -> None:
        """Tells how a composition is made, before the engine asks for it; its terms are expected by themselves."""
        with self._lock:
            remember(self._recipes, recipe.digest, recipe, _MAX_EXPECTED)

    def published(self, digest: str, name: str) -> Published | None:
        """What is known of a digest without the registry; None where its files are not here under that name."""
        facts = cached.read_facts(self._path(digest))
        try:
            known = None if facts is None else facts.published(digest)
            return known if known is not None and known.key == parse_reference(name).key else None
        except LorryError:
            return None

    def disown(self, key: AdapterKey, digest: str | None = None) -> None:
        """The registry has said that there is no such adapter, or none of its versions has that digest."""
        name = str(key)
        with self._lock:
            gone = [
                entry
                for entry in self._here.values()
                if entry.reference.rpartition(":")[0] == name and digest in (None, entry.digest)
            ]
            for entry in gone:
                entry.reference = ""
            for expected in [p for p in self._expected.values() if p.key == key]:
                if digest in (None, expected.digest):
                    del self._expected[expected.digest]
        for entry in gone:
            facts = cached.read_facts(self._path(entry.digest))
            if facts is not None:
                with suppress(OSError):
                    cached.write_facts(self._path(entry.digest), cached.without_name(facts))

    def on_disk(self) -> list[OnDisk]:
        """What is here, most recently used first."""
        with self._lock:
            return list(reversed(self._here.values()))

    # The engine's AdapterSource.

    def recipe(self, digest: str) -> Recipe | None:
        """How a composition is made; None for a version."""
        with self._lock:
            return self._recipes.get(digest)

    def local(self, digest: str) -> Path | None:
        """The folder of a digest where it is here and every file has its size."""
        path = self._path(digest)
        facts = cached.read_facts(path)
        if facts is None or not cached.is_whole(path, facts):
            return None
        try:
            # Each time: what an earlier server brought here may have been brought without a policy.
            self._signatures.check(path, facts.files, facts.adapter or digest)
        except FailedPrecondition:
            return None  # brought anew, it is refused for good
        with suppress(OSError):
            os.utime(path)  # for the servers that share the home, and for the next start
        with self._lock:
            if digest not in self._here:  # another server with the same home brought it
                self._here[digest] = _on_disk(digest, path, facts)
            self._touch(digest)
        return path

    def fetch(self, digest: str) -> Path:
        """The folder of a digest, brought from the registry where it is not here yet. Blocks."""
        with self._alone(digest):
            return self.local(digest) or self._bring(digest)

    def refetch(self, digest: str) -> Path:
        """As `fetch`, for a folder that could not be read: where a byte of it is wrong it is brought anew."""
        with self._alone(digest):
            path = self._path(digest)
            facts = cached.read_facts(path)
            if facts is not None and cached.is_intact(path, facts):
                return path
            return self._bring(digest, doubtful=True)

    def store(self, digest: str, rank: int, write: Callable[[Path], None]) -> None:
        """Keeps what was computed of a composition, for `local`, where the disk lets it.

        Under a policy that asks for signatures it has none, and is computed anew each time.
        """
        partial = self._folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            partial.mkdir()
            write(partial)
            files = tuple(
                File(name, digest_file(partial / name), (partial / name).stat().st_size)
                for name in cached.NEEDED
            )
            facts = Facts("", 0, "", "", rank, files)
            cached.write_facts(partial, facts)
            self._remove(digest)
            partial.rename(self._path(digest))
        except OSError as error:
            _log.warning("Composition %s could not be kept on disk: %s", digest, error)
        else:
            with self._lock:
                self._here[digest] = _on_disk(digest, self._path(digest), facts)
                self._touch(digest)
            self._trim()
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    def _touch(self, digest: str) -> None:
        if (entry := self._here.get(digest)) is not None:
            entry.last_used = time.time()
            self._here.move_to_end(digest)

    @contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        with self._lock:
            lock = self._bringing.setdefault(digest, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._bringing.pop(digest, None)

    def _bring(self, digest: str, *, doubtful: bool = False) -> Path:
        """Replaces what is there, if anything is. `doubtful`: no byte is believed, not even a linked one's."""
        with self._lock:
            published = self._expected.get(digest)
        if published is None:
            raise NotFound(
                f"Adapter {digest} is not on this server's disk; name it by a reference once.",
                reason="ADAPTER_NOT_FOUND",
                digest=digest,
            )
        path, facts = self._path(digest), Facts.of(published)
        partial = self._folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            partial.mkdir()
            for file in facts.files:
                self._registry.fetch_blob(file, partial / file.path)
                if doubtful:
                    cached.check_digest(partial / file.path, file)
                cached.fsync(partial / file.path)
            self._signatures.check(partial, facts.files, published.short_reference)
            cached.write_facts(partial, facts)
            cached.fsync(partial)
            self._remove(digest)
            partial.rename(path)
            cached.fsync(self._folder)
        except OSError as error:
            if self.local(digest) is not None:
                return path  # another process with the same home was quicker
            raise ResourceExhausted(
                f"Adapter {digest} cannot be stored in {self._folder} ({error.strerror}): free space, then ask again.",
                reason="CACHE_UNWRITABLE",
                digest=digest,
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        with self._lock:
            self._here[digest] = _on_disk(digest, path, facts)
            self._touch(digest)
        self._trim()
        return path

    def _remove(self, digest: str) -> None:
        """Out of sight first, by a rename: nobody ever sees half a folder."""
        trash = self._folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            self._path(digest).rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
        with self._lock:
            self._here.pop(digest, None)

    def _trim(self) -> None:
        """Removes what was used least recently until the rest is within the budget."""
        with self._lock:
            total = sum(entry.own_bytes for entry in self._here.values())
            entries = list(self._here.values()) if total > self._max_bytes else []
            kept = {*self._bringing}
        if entries:
            kept |= {*self._in_memory()}
        for entry in entries:
            if total <= self._max_bytes:
                break
            in_use = entry.digest in kept or time.time() - entry.last_used < _IN_USE_SECONDS
            if entry.own_bytes and not in_use:
                with suppress(OSError):
                    self._remove(entry.digest)
                    total -= entry.own_bytes

    def _take_stock(self) -> None:
        found: list[OnDisk] = []
        for path in self._folder.iterdir():
            if path.name.startswith(_PARTIAL):
                with suppress(FileNotFoundError):  # another server's, done by now
                    if time.time() - path.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                        shutil.rmtree(path, ignore_errors=True)
            elif (facts := cached.read_facts(path)) is not None:
                found.append(_on_disk(f"sha256:{path.name}", path, facts))
        for entry in sorted(found, key=lambda entry: entry.last_used):
            self._here[entry.digest] = entry


def _on_disk(digest: str, path: Path, facts: Facts) -> OnDisk:
    reference = f"{facts.adapter}:{facts.number}" if facts.adapter else ""
    try:
        last_used = path.stat().st_mtime
    except OSError:  # gone already, by another server's hand
        last_used = 0.0
    return OnDisk(
        digest, reference, facts.max_rank, facts.size_bytes, last_used, cached.own_bytes(path, facts)
    )  # fmt: skip
