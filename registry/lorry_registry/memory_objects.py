"""Objects in this process's memory, for tests and for registries that need not remember.

A dictionary rather than fsspec's memory: all who open a file there share one position, and of two who create a file
both may win.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lorry_registry.links import Link, no_links
from lorry_registry.objects import StoredObject

_NO_LINKS = "the registry keeps its blobs in memory, which signs no links"


class MemoryObjects:
    """Objects that are gone with the process."""

    part_bytes = 0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[StoredObject, bytes]] = {}
        self._made = 0

    def create(self, key: str, data: bytes) -> StoredObject | None:
        with self._lock:
            return None if key in self._objects else self._put(key, bytes(data))

    def look(self, key: str) -> StoredObject | None:
        with self._lock:
            return self._objects[key][0] if key in self._objects else None

    def find(self, prefix: str) -> Iterator[StoredObject]:
        with self._lock:
            found = [
                one for key, (one, _) in sorted(self._objects.items()) if key.startswith(prefix)
            ]
        return iter(found)

    def read(self, key: str, start: int, stop: int) -> bytes:
        return self._get(key)[1][start:stop]

    def sign_read(self, key: str) -> Link:
        raise no_links(_NO_LINKS)

    def sign_create(self, key: str, *, size_bytes: int) -> Link:
        raise no_links(_NO_LINKS)

    def assemble(self, parts: Sequence[StoredObject], key: str) -> None:
        with self._lock:
            there = [self._objects.get(part.key) for part in parts]
            data = []
            for part, found in zip(parts, there, strict=True):
                if found is None or found[0].tag != part.tag:
                    raise FileNotFoundError(part.key)
                data.append(found[1])
            self._put(key, b"".join(data))

    def touch(self, key: str) -> None:
        found, data = self._get(key)
        with self._lock:
            self._objects[key] = replace(found, modified=time.time()), data

    def move(self, key: str, target: str) -> None:
        with self._lock:
            if key not in self._objects:
                raise FileNotFoundError(key)
            self._put(target, self._objects.pop(key)[1])

    def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)

    def abandoned(self, prefix: str) -> Iterator[StoredObject]:
        return iter(())

    def abandon(self, assembly: StoredObject) -> None: ...

    def close(self) -> None: ...

    def _get(self, key: str) -> tuple[StoredObject, bytes]:
        with self._lock:
            if key not in self._objects:
                raise FileNotFoundError(key)
            return self._objects[key]

    def _put(self, key: str, data: bytes) -> StoredObject:
        self._made += 1
        made = StoredObject(key, len(data), str(self._made), time.time())
        self._objects[key] = made, data
        return made
