"""Adapters in host memory: parsed, and kept within a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from lorry_server.engine.adapters.weights import AdapterWeights


class HostCache:
    """Parsed adapters in host memory, least recently used first out, within a budget of bytes.

    A budget of 0 keeps none: on a CPU the slots are host memory already, and a second copy would gain nothing.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[str, AdapterWeights] = OrderedDict()

    def get(self, digest: str) -> AdapterWeights | None:
        with self._lock:
            factors = self._held.get(digest)
            if factors is not None:
                self._held.move_to_end(digest)
            return factors

    def put(self, digest: str, factors: AdapterWeights) -> None:
        with self._lock:
            self._held.pop(digest, None)
            if factors.size_bytes > self.budget_bytes:
                return  # it would push out everything and not stay itself
            self._held[digest] = factors
            while sum(f.size_bytes for f in self._held.values()) > self.budget_bytes:
                self._held.popitem(last=False)

    def drop(self, digest: str) -> None:
        with self._lock:
            self._held.pop(digest, None)

    def __contains__(self, digest: str) -> bool:
        with self._lock:
            return digest in self._held
