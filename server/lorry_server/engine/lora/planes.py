"""Where a slot's rows lie in a layer's pool.

In planes: the first plane holds rows 0 … 15 of slot 0, then those of slot 1, and so on; the next plane the next 16
rows of each. So adapters of usual ranks lie densely, whatever `max_rank` is, and a mixed batch reads one stretch of
memory (a quarter faster on a CPU than with `max_rank` rows between two slots).
"""

from __future__ import annotations

import numpy as np

from lorry_server.engine.sparse import Integers

PLANE = 16  # rows that a slot has side by side

Ranks = tuple[
    tuple[int, int], ...
]  # ((slot, rank), …) of the adapters that target a layer, by slot


def num_pool_rows(num_slots: int, max_rank: int) -> int:
    """How many rows a pool has: whole planes."""
    return -(-max_rank // PLANE) * PLANE * num_slots


def slot_rows(slot: int, rank: int, num_slots: int) -> Integers:
    """The first `rank` rows of a slot."""
    row = np.arange(rank, dtype=np.int64)
    return row // PLANE * (PLANE * num_slots) + slot * PLANE + row % PLANE
