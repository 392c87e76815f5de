"""What adapters' heads call their outputs, by the digest of the adapter. The engine knows numbers alone."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from lorry_registry.checks import LABELS_FILE, read_labels
from lorry_server.cache import AdapterCache
from lorry_server.remembering import remember

_MAX_REMEMBERED = 1000


class LabelNames:
    """Lives on the event loop; reads files beside it, each digest's once while it is remembered."""

    def __init__(self, cache: AdapterCache) -> None:
        self._cache = cache
        self._names: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # least recently asked first

    async def of(self, digest: str) -> tuple[str, ...]:
        """In the head's order; empty where the adapter has no `labels.json`.

        Raises what the cache raises where the adapter is no longer at hand and cannot be brought.
        """
        names = self._names.get(digest)
        if names is None:
            names = await asyncio.to_thread(self._read, digest)
        remember(self._names, digest, names, _MAX_REMEMBERED)
        return names

    def _read(self, digest: str) -> tuple[str, ...]:
        path = self._cache.fetch(digest) / LABELS_FILE
        return read_labels(path) if path.is_file() else ()
