"""Virtual tokens: what some adapters put before every sequence of theirs.

Embeddings take the place of what the model's own embedding says of those tokens, and are computed like any prompt. Keys
and values go into the sequence's pages as they are. Either way the first places of the sequence are the adapter's: they
are shared, evicted and brought back like those of any prefix, under the adapter's digest.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorry_server.engine.adapters.weights import VirtualTokens
from lorry_server.engine.attention import KVCache


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """Tokens `[start, start + count)` of a step are virtual tokens `first` and following of the adapter in `slot`."""

    start: int
    count: int
    first: int
    slot: int


@dataclass(frozen=True, slots=True)
class Injection:
    """Virtual tokens `[first, end)` of the adapter in `slot` go to those places of a sequence."""

    blocks: tuple[int, ...]  # the sequence's block table
    first: int
    end: int
    slot: int


class VirtualSlots:
    """The virtual tokens of resident adapters, by slot."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[int, VirtualTokens] = {}
        self.step: Items[VirtualRun] = ()  # set before a forward pass, cleared after it

    def write(self, slot: int, tokens: VirtualTokens) -> None:
        def own(part: torch.Tensor) -> torch.Tensor:
            return part.to(self._device, copy=True)

        self._held[slot] = VirtualTokens(
            None if tokens.embeddings is None else own(tokens.embeddings),
            tuple(map(own, tokens.keys)),
            tuple(map(own, tokens.values)),
        )

    def clear(self, slot: int) -> None:
        """Empties a slot: what was there is zeroed, not only forgotten."""
        held = self._held.pop(slot, None)
        if held is not None:
            for part in (held.embeddings, *held.keys, *held.values):
                if part is not None:
                    part.zero_()

    def overlay(self, embedding: nn.Module) -> None:
        """Lets the model's input embedding say what virtual tokens are."""
        embedding.register_forward_hook(self._put)

    def inject(self, cache: KVCache, injections: Items[Injection]) -> None:
        """Writes keys and values to the pages of their sequences."""
        for each in injections:
            held = self._held[each.slot]
            for index, layer in enumerate(sorted(cache.keys)):
                _write(cache.keys[layer], held.keys[index], each)
                _write(cache.values[layer], held.values[index], each)

    def _put(self, _embedding: nn.Module, _args: Any, said: torch.Tensor) -> torch.Tensor:
        """`said` is [1, num_tokens, width]."""
        for run in self.step:
            embeddings = self._held[run.slot].embeddings
            assert embeddings is not None
            said[0, run.start : run.start + run.count] = embeddings[
                run.first : run.first + run.count
            ]
        return said


def _write(cache: torch.Tensor, tokens: torch.Tensor, injection: Injection) -> None:
    """`cache` is [num_blocks, heads, block_size, dim], `tokens` [heads, num_tokens, dim]."""
    size = cache.shape[2]
    places = torch.arange(injection.first, injection.end, device=cache.device)
    blocks = torch.tensor(injection.blocks, device=cache.device)[places // size]
    cache[blocks, :, places % size] = tokens[:, injection.first : injection.end].transpose(0, 1)
