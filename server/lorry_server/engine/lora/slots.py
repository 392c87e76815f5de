"""Device memory for the factors of resident adapters: for each linear layer, `max_rank` rows a slot.

A layer's pool comes into being with the first adapter that targets it. Slot `s` owns the rows
`[s * max_rank, (s + 1) * max_rank)`; of these an adapter fills as many as its rank in that layer, and only those are
ever read. A slot is written while no running sequence refers to it, so writing needs no lock against the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

Ranks = tuple[
    tuple[int, int], ...
]  # ((slot, rank), …) of the adapters that target a layer, by slot


@dataclass(frozen=True, slots=True)
class ModuleFactors:
    """One layer's update: `y += (x @ a.T) @ b`, the scale already in `b`."""

    a: torch.Tensor  # [rank, in_features]
    b: torch.Tensor  # [rank, out_features]

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def size_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass(slots=True)
class LayerPool:
    """The slots of one linear layer."""

    a: torch.Tensor  # [num_slots * max_rank, in_features]
    b: torch.Tensor  # [num_slots * max_rank, out_features]
    max_rank: int
    ranks: Ranks = ()

    def rows(self, slot: int, rank: int) -> slice:
        return slice(slot * self.max_rank, slot * self.max_rank + rank)

    def write(self, slot: int, factors: ModuleFactors) -> None:
        rows = self.rows(slot, factors.rank)
        self.a[rows].copy_(factors.a)
        self.b[rows].copy_(factors.b)
        self.ranks = tuple(sorted({**dict(self.ranks), slot: factors.rank}.items()))

    def clear(self, slot: int) -> None:
        rank = dict(self.ranks).get(slot)
        if rank is not None:
            self.ranks = tuple(item for item in self.ranks if item[0] != slot)
            self.a[self.rows(slot, rank)].zero_()
            self.b[self.rows(slot, rank)].zero_()


@dataclass(slots=True)
class LoraSlots:
    """The pools of all layers of a model, by dotted path."""

    num_slots: int
    max_rank: int
    dtype: torch.dtype
    device: torch.device
    pools: dict[str, LayerPool] = field(default_factory=dict)

    def write(self, slot: int, modules: Mapping[str, ModuleFactors]) -> None:
        """Puts an adapter into an empty slot."""
        for path, factors in modules.items():
            self._pool(path, factors).write(slot, factors)

    def clear(self, slot: int) -> None:
        """Empties a slot: what was there is zeroed, not only forgotten."""
        for pool in self.pools.values():
            pool.clear(slot)

    def _pool(self, path: str, factors: ModuleFactors) -> LayerPool:
        pool = self.pools.get(path)
        if pool is None:
            rows = self.num_slots * self.max_rank
            # Not zeroed: rows are read only after they are written, and on a CPU untouched pages take no memory.
            a = torch.empty(rows, factors.a.shape[1], dtype=self.dtype, device=self.device)
            b = torch.empty(rows, factors.b.shape[1], dtype=self.dtype, device=self.device)
            pool = self.pools[path] = LayerPool(a, b, self.max_rank)
        return pool
