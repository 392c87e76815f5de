"""Device memory for what resident adapters add to linear layers: for each layer, room for `max_rank` rows a slot.

A layer's pool comes into being with the first adapter that targets it. Of a slot's rows an adapter fills as many as its
rank in that layer, and only those are ever read. A slot is written while no running sequence refers to it, so writing
needs no lock against the model. What is not low-rank has its place in `vectors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lorry_server.engine.adapters.weights import LinearUpdate
from lorry_server.engine.lora.bottlenecks import BottleneckSlots
from lorry_server.engine.lora.planes import Ranks, num_pool_rows, slot_rows
from lorry_server.engine.lora.vectors import LayerVectors, layer_vectors


@dataclass(slots=True)
class LayerPool:
    """The slots of one linear layer."""

    a: torch.Tensor  # [pool rows, in_features]
    b: torch.Tensor  # [pool rows, out_features]
    num_slots: int
    ranks: Ranks = ()

    def rows(self, slot: int, rank: int) -> torch.Tensor:
        """[rank] int64: where the first rows of a slot are."""
        return torch.from_numpy(slot_rows(slot, rank, self.num_slots)).to(self.a.device)

    def write(self, slot: int, a: torch.Tensor, b: torch.Tensor) -> None:
        """Puts factors [rank, in_features] and [rank, out_features] into an empty slot."""
        rows = self.rows(slot, len(a))
        self.a[rows] = a.to(self.a.device)
        self.b[rows] = b.to(self.b.device)
        self.ranks = tuple(sorted({**dict(self.ranks), slot: len(a)}.items()))

    def clear(self, slot: int) -> None:
        rank = dict(self.ranks).get(slot)
        if rank is not None:
            self.ranks = tuple(item for item in self.ranks if item[0] != slot)
            rows = self.rows(slot, rank)
            self.a[rows] = 0
            self.b[rows] = 0


@dataclass(slots=True)
class LoraSlots:
    """The slots of all linear layers of a model, by dotted path."""

    num_slots: int
    max_rank: int
    dtype: torch.dtype
    device: torch.device
    pools: dict[str, LayerPool] = field(default_factory=dict)
    vectors: dict[str, LayerVectors] = field(default_factory=dict)
    bottlenecks: BottleneckSlots = field(init=False)

    def __post_init__(self) -> None:
        self.bottlenecks = BottleneckSlots(self.device)

    def write(self, slot: int, linears: Mapping[str, LinearUpdate]) -> None:
        """Puts an adapter into an empty slot."""
        for path, update in linears.items():
            if update.a is not None and update.b is not None:
                self._pool(path, update.a, update.b).write(slot, update.a, update.b)
            if update.has_vectors:
                if path not in self.vectors:
                    self.vectors[path] = layer_vectors(self.num_slots, self.dtype, self.device)
                self.vectors[path].write(slot, update)

    def clear(self, slot: int) -> None:
        """Empties a slot: what was there is zeroed, not only forgotten."""
        for pool in self.pools.values():
            pool.clear(slot)
        for vectors in self.vectors.values():
            vectors.clear(slot)
        self.bottlenecks.clear(slot)

    def _pool(self, path: str, a: torch.Tensor, b: torch.Tensor) -> LayerPool:
        pool = self.pools.get(path)
        if pool is None:
            rows = num_pool_rows(self.num_slots, self.max_rank)
            # Not zeroed: rows are read only after they are written, and on a CPU untouched pages take no memory.
            all_a = torch.empty(rows, a.shape[1], dtype=self.dtype, device=self.device)
            all_b = torch.empty(rows, b.shape[1], dtype=self.dtype, device=self.device)
            pool = self.pools[path] = LayerPool(all_a, all_b, self.num_slots)
        return pool
