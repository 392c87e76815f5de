"""Attention over paged keys and values, plugged into transformers through its public interfaces.

The model sees one packed row of tokens, `[1, num_tokens]`; this function writes each token's key and value to its place
in the cache and lets each sequence look at its own pages only. Decoding sequences go in one call, prefill chunks one
by one. The CPU path gathers pages; an accelerator's kernel with block tables takes its place behind `PagedBatch`.

A place that is masked weighs nothing, yet nothing times NaN is NaN. So a sequence never gathers a place that another one
has written: a block that is begun is wiped first, and tables are padded with the sequence's own blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "lorry_paged"


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one layer caches for a token."""

    num_heads: int
    key_dim: int
    value_dim: int

    @property
    def size(self) -> int:
        return self.num_heads * (self.key_dim + self.value_dim)


class KVCache:
    """Keys and values of every layer, [num_blocks, block_size, heads, dim] each."""

    def __init__(
        self,
        shapes: dict[int, KVShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        def pages(heads: int, dim: int) -> torch.Tensor:
            return torch.zeros(num_blocks, block_size, heads, dim, dtype=dtype, device=device)

        self.keys = {i: pages(shape.num_heads, shape.key_dim) for i, shape in shapes.items()}
        self.values = {i: pages(shape.num_heads, shape.value_dim) for i, shape in shapes.items()}


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens `[start, end)` of the step: the last of a sequence's first `context_length` tokens."""

    start: int
    end: int
    context_length: int
    blocks: torch.Tensor  # [blocks of the context] int64


@dataclass(slots=True)
class PagedBatch:
    """Where the tokens of a step stand. The first `num_decode` tokens are one for each decoding sequence."""

    cache: KVCache
    slot_mapping: (
        torch.Tensor
    )  # [num_tokens] int64: place of each token's key and value in the cache
    begun_blocks: torch.Tensor  # [blocks that the step begins and does not fill] int64
    num_decode: int
    decode_blocks: torch.Tensor  # [num_decode * blocks] int64, padded with the sequence's first
    decode_lengths: torch.Tensor  # [num_decode] int64, the token itself included
    prefills: list[PrefillChunk]
    _masks: dict[object, torch.Tensor | None] = field(default_factory=dict)

    def decode_mask(self, context: int, window: int | None) -> torch.Tensor:
        """[num_decode, 1, 1, context], true where a sequence may look."""
        key = ("decode", window)
        mask = self._masks.get(key)
        if mask is None:
            positions = torch.arange(context, device=self.decode_lengths.device)
            lengths = self.decode_lengths[:, None]
            mask = positions < lengths
            if window is not None:
                mask &= positions >= lengths - window
            self._masks[key] = mask = mask[:, None, None, :]
        return mask

    def prefill_mask(self, index: int, window: int | None) -> torch.Tensor:
        """[tokens of the chunk, its context], true where a token may look."""
        key = (index, window)
        mask = self._masks.get(key)
        if mask is None:
            chunk = self.prefills[index]
            positions = torch.arange(chunk.context_length, device=self.slot_mapping.device)
            own = positions[chunk.context_length - (chunk.end - chunk.start) :, None]
            mask = positions <= own
            if window is not None:
                mask &= positions > own - window
            self._masks[key] = mask
        return mask


def install(model: PreTrainedModel) -> None:
    """Makes a model attend through `paged_attention`; its forward then needs `lorry_batch=`."""
    AttentionInterface.register(NAME, paged_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Every sequence's mask is in `PagedBatch`."""


def paged_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, heads, num_tokens, key_dim]
    key: torch.Tensor,  # [1, kv_heads, num_tokens, key_dim]
    value: torch.Tensor,  # [1, kv_heads, num_tokens, value_dim]
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    lorry_batch: PagedBatch,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Returns ([1, num_tokens, heads, value_dim], None)."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    keys, values = lorry_batch.cache.keys[layer], lorry_batch.cache.values[layer]
    kv_heads = key.shape[1]
    if len(lorry_batch.begun_blocks):
        keys.index_fill_(0, lorry_batch.begun_blocks, 0)
        values.index_fill_(0, lorry_batch.begun_blocks, 0)
    keys.view(-1, kv_heads, keys.shape[-1]).index_copy_(
        0, lorry_batch.slot_mapping, key[0].transpose(0, 1)
    )
    values.view(-1, kv_heads, values.shape[-1]).index_copy_(
        0, lorry_batch.slot_mapping, value[0].transpose(0, 1)
    )

    q = query[0].transpose(0, 1)  # [num_tokens, heads, key_dim]
    num_tokens, heads, _ = q.shape
    group = heads // kv_heads
    out = torch.empty(num_tokens, heads, values.shape[-1], dtype=q.dtype, device=q.device)

    n = lorry_batch.num_decode
    if n:
        k = _pages(keys, lorry_batch.decode_blocks, n)
        v = _pages(values, lorry_batch.decode_blocks, n)
        mask = lorry_batch.decode_mask(k.shape[2], sliding_window)
        # The query heads that share a key head stand where a longer query would: no key is repeated.
        rows = q[:n].reshape(n, kv_heads, group, -1)
        out[:n] = _attend(rows, k, v, mask, scaling, softcap).reshape(n, heads, -1)

    for index, chunk in enumerate(lorry_batch.prefills):
        k = _pages(keys, chunk.blocks, 1)[:, :, : chunk.context_length]
        v = _pages(values, chunk.blocks, 1)[:, :, : chunk.context_length]
        mask = lorry_batch.prefill_mask(index, sliding_window)
        rows = (
            q[chunk.start : chunk.end].reshape(-1, kv_heads, group, q.shape[-1]).permute(1, 2, 0, 3)
        )
        k, v = (t[0][:, None].expand(-1, group, -1, -1) for t in (k, v))
        attended = _attend(
            rows, k, v, mask, scaling, softcap
        )  # [kv_heads, group, tokens, value_dim]
        out[chunk.start : chunk.end] = attended.permute(2, 0, 1, 3).reshape(
            -1, heads, values.shape[-1]
        )

    return out[None], None


def _pages(cache: torch.Tensor, blocks: torch.Tensor, num_sequences: int) -> torch.Tensor:
    """The pages of some sequences as [num_sequences, heads, context, dim]."""
    _, _, heads, dim = cache.shape
    return cache.index_select(0, blocks).view(num_sequences, -1, heads, dim).transpose(1, 2)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    if softcap is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(v.dtype) @ v
