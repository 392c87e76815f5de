"""The files of adapters that are at hand, one folder for each digest. The engine loads from here.

    <home>/cache/<hex>/adapter_config.json, adapter_model.safetensors, lorry.json

A folder appears by a rename once every file is there and its digest holds; what a crash leaves behind never counts.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from pathlib import Path

from lorry_registry.entities import AdapterKey
from lorry_registry.errors import FailedPrecondition, LorryError, NotFound, ResourceExhausted
from lorry_registry.references import parse_reference
from lorry_server.registries import Published, Registry

_NEEDED = ("adapter_config.json", "adapter_model.safetensors")
_FACTS = "lorry.json"
_PARTIAL = ".partial-"
_LEFT_BEHIND_SECONDS = 3600.0  # a younger one may be another server's, which shares the home
_MAX_EXPECTED = 10_000


class AdapterCache:
    """The engine's AdapterSource. `fetch` may be called from many threads; each digest is brought once."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self._folder = folder
        self._registry = registry
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._expected: OrderedDict[str, Published] = (
            OrderedDict()
        )  # by digest, least recently asked for first
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob(f"{_PARTIAL}*"):
                if time.time() - partial.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                    shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise FailedPrecondition(
                f"The server's home {folder.parent} cannot be written to ({error.strerror}): choose another with "
                "--home, or correct its permissions.",
                reason="HOME_UNWRITABLE",
                home=folder.parent,
            ) from error

    def expect(self, published: Published) -> None:
        """Tells what a digest is made of, before the engine asks for it."""
        with self._lock:
            self._expected[published.digest] = published
            self._expected.move_to_end(published.digest)
            if len(self._expected) > _MAX_EXPECTED:
                self._expected.popitem(last=False)

    def published(self, digest: str, name: str) -> Published | None:
        """What is known of a digest without the registry; None where its files are not here."""
        try:
            facts = json.loads((self._path(digest) / _FACTS).read_text(encoding="utf-8"))
            key: AdapterKey = parse_reference(name).key
        except (OSError, ValueError, LorryError):
            return None
        if facts["adapter"] != str(key):
            return None
        return Published(
            key=key, number=facts["number"], digest=digest, base_fingerprint=facts["base_fingerprint"],
            base_name=facts["base_name"], max_rank=facts["max_rank"], files=(),
        )  # fmt: skip

    def fetch(self, digest: str) -> Path:
        """The folder of a digest, brought from the registry where it is not here yet. Blocks."""
        path = self._path(digest)
        with self._lock:
            lock = self._fetching.setdefault(digest, threading.Lock())
        try:
            with lock:
                if not path.is_dir():
                    self._bring(digest, path)
        finally:
            with self._lock:
                self._fetching.pop(digest, None)
        return path

    def _path(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    def _bring(self, digest: str, path: Path) -> None:
        with self._lock:
            published = self._expected.get(digest)
        if published is None:
            raise NotFound(
                f"Adapter {digest} is not on this server's disk; name it by a reference once.",
                reason="ADAPTER_NOT_FOUND",
                digest=digest,
            )
        partial = self._folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            partial.mkdir()
            for file in published.files:
                if file.path in _NEEDED:
                    self._registry.fetch_blob(file, partial / file.path)
            (partial / _FACTS).write_text(json.dumps(_facts(published), indent=1), encoding="utf-8")
            partial.rename(path)
        except OSError as error:
            if path.is_dir():
                return  # another process with the same home was quicker
            raise ResourceExhausted(
                f"Adapter {digest} cannot be stored in {self._folder} ({error.strerror}): free space, then ask again.",
                reason="CACHE_UNWRITABLE",
                digest=digest,
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _facts(published: Published) -> dict[str, object]:
    return {
        "adapter": str(published.key),
        "number": published.number,
        "base_fingerprint": published.base_fingerprint,
        "base_name": published.base_name,
        "max_rank": published.max_rank,
    }
