"""Device memory for resident adapters, whatever forms what they do has."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorry_server.engine.adapters.weights import AdapterWeights
from lorry_server.engine.lora.slots import LoraSlots
from lorry_server.engine.virtual import VirtualSlots


@dataclass(frozen=True, slots=True)
class AdapterSlots:
    """A slot's share of each kind of memory. Written and cleared by the loader's writer alone."""

    linears: LoraSlots
    virtual: VirtualSlots

    @property
    def max_rank(self) -> int:
        return self.linears.max_rank

    @property
    def dtype(self) -> torch.dtype:
        return self.linears.dtype

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Puts an adapter into an empty slot."""
        self.linears.write(slot, weights.linears)
        if weights.virtual is not None:
            self.virtual.write(slot, weights.virtual)

    def clear(self, slot: int) -> None:
        """Empties a slot: what was there is zeroed, not only forgotten."""
        self.linears.clear(slot)
        self.virtual.clear(slot)
