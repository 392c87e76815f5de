"""Device memory for resident adapters, whatever forms what they do has."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lorry_registry.errors import ResourceExhausted
from lorry_server.engine.adapters.weights import AdapterWeights, Head
from lorry_server.engine.lora.modules import ModuleSlots
from lorry_server.engine.lora.slots import LoraSlots
from lorry_server.engine.virtual import VirtualSlots


class AdapterSlots:
    """A slot's share of each kind of memory. Written and cleared by the loader's writer alone."""

    def __init__(
        self,
        linears: LoraSlots,
        virtual: VirtualSlots,
        modules: ModuleSlots,
        *,
        dense_memory_bytes: int,
    ) -> None:
        """`dense_memory_bytes` is what the adapters in all slots may have together beside the layers' pools."""
        self.linears = linears
        self.virtual = virtual
        self.modules = modules
        self.heads: Mapping[int, Head] = {}  # by slot; replaced, never changed
        self._dense_memory_bytes = dense_memory_bytes
        self._dense_bytes: dict[int, int] = {}  # by slot

    @property
    def max_rank(self) -> int:
        return self.linears.max_rank

    @property
    def dtype(self) -> torch.dtype:
        return self.linears.dtype

    @property
    def dense_bytes(self) -> int:
        """What the adapters in all slots have beside the layers' pools."""
        return sum(self._dense_bytes.values())

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Puts an adapter into an empty slot.

        Raises ResourceExhausted where its whole matrices find no room, FailedPrecondition where it changes a module
        that runs for all tokens alike.
        """
        self._reserve(slot, weights.dense_bytes)
        self.linears.write(slot, weights.linears)
        self.linears.bottlenecks.write(slot, weights.bottlenecks)
        self.modules.write(slot, weights.embeddings, weights.parameters)
        if weights.virtual is not None:
            self.virtual.write(slot, weights.virtual)
        if weights.head is not None:
            self.heads = {**self.heads, slot: weights.head.to(self.linears.device)}

    def clear(self, slot: int) -> None:
        """Empties a slot: what was there is zeroed or dropped, not only forgotten."""
        self.linears.clear(slot)
        self.modules.clear(slot)
        self.virtual.clear(slot)
        self.heads = {other: head for other, head in self.heads.items() if other != slot}
        self._dense_bytes.pop(slot, None)

    def _reserve(self, slot: int, num_bytes: int) -> None:
        if num_bytes and self.dense_bytes + num_bytes > self._dense_memory_bytes:
            raise ResourceExhausted(
                f"What the adapter has besides LoRA (whole matrices, embeddings, virtual tokens) takes {num_bytes} "
                f"bytes, that of the adapters in the slots {self.dense_bytes}, and all together may have "
                f"{self._dense_memory_bytes}: unload one of those, or start the server with more "
                "--dense-memory-bytes.",
                reason="DENSE_MEMORY_FULL",
                needed_bytes=num_bytes,
                used_bytes=self.dense_bytes,
                limit_bytes=self._dense_memory_bytes,
            )
        self._dense_bytes[slot] = num_bytes
