"""Attention over paged keys and values, plugged into transformers through its public interfaces.

The model sees one packed row of tokens, `[1, num_tokens]`; this function writes each token's key and value to its place
in the cache and lets each sequence look at its own places only. Decoding sequences go in one call, which reads keys and
values where they lie; prefill chunks go one by one, which copies their pages first where there is an earlier part. An
accelerator's kernel with block tables takes the place of both behind `PagedBatch`.

A place that is masked weighs nothing, yet nothing times NaN is NaN. So a place that is not the sequence's own, or that
it has not written yet, is never read: it is left out, not masked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from lorry_server.engine.sparse import Integers, Pattern

NAME = "lorry_paged"
_NUMBERS = itertools.count()  # each model has an attention of its own
Integers2d = np.ndarray[tuple[int, int], np.dtype[np.int64]]


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
    """Keys and values of every layer, [num_blocks, heads, block_size, dim] each.

    A head's places in a block lie side by side: a head reads its own, one after the other.
    """

    def __init__(
        self,
        shapes: dict[int, KVShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        def pages(heads: int, dim: int) -> torch.Tensor:
            # Not zeroed: what is not written is never read, and on a CPU untouched pages take no memory.
            return torch.empty(num_blocks, heads, block_size, dim, dtype=dtype, device=device)

        self.keys = {i: pages(shape.num_heads, shape.key_dim) for i, shape in shapes.items()}
        self.values = {i: pages(shape.num_heads, shape.value_dim) for i, shape in shapes.items()}


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens `[start, end)` of the step: the last of a sequence's first `context_length` tokens."""

    start: int
    end: int
    context_length: int
    blocks: torch.Tensor  # [blocks of the context] int64


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer weighs what it looks at, beyond the softmax of its products."""

    scaling: float
    softcap: float | None  # no score is larger
    sinks: torch.Tensor | None  # [heads]

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap


class DecodeReads:
    """What decoding sequences read: for each sequence and query head, the rows of its keys and values."""

    def __init__(
        self,
        tables: Integers2d,  # [sequences, blocks]
        lengths: Integers,
        window: int | None,
        heads: int,
        cache: torch.Tensor,  # [num_blocks, kv_heads, block_size, dim]
    ) -> None:
        num_blocks, kv_heads, block_size, _ = cache.shape
        position = np.arange(lengths.max())
        own = position < lengths[:, None]
        if window is not None:
            own &= position >= lengths[:, None] - window
        kv_head = np.arange(heads) // (heads // kv_heads)
        rows = _rows(tables[:, None, position // block_size], kv_head[:, None], position, cache)
        rows, counts = rows.reshape(-1), np.repeat(own.sum(1), heads)
        self._scores = torch.full((len(counts), len(position)), float("-inf"))
        self._where: torch.Tensor | None = None  # among the scores; None: everywhere
        if not own.all():
            where = np.flatnonzero(np.repeat(own, heads, axis=0))
            rows, self._where = rows[where], torch.from_numpy(where)
        self.pattern = Pattern(counts, rows, num_blocks * kv_heads * block_size)

    def softmax(self, scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
        """Over the places of each sequence and head; `sinks` [heads]."""
        if self._where is None:
            return self._weights(scores.view(self._scores.shape), sinks).view(-1)
        self._scores.view(-1).index_copy_(0, self._where, scores)
        return self._weights(self._scores, sinks).view(-1).index_select(0, self._where)

    @staticmethod
    def _weights(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
        weights = scores.softmax(-1)
        if sinks is None:
            return weights
        return weights * _beside_sinks(scores, sinks.repeat(len(scores) // len(sinks)))


@dataclass(slots=True)
class PagedBatch:
    """Where the tokens of a step stand. The first tokens are one for each decoding sequence."""

    cache: KVCache
    blocks: Integers  # [num_tokens]: where each token's key and value go
    positions: Integers  # [num_tokens]: of each token in its sequence
    decode_tables: Integers2d  # [sequences, blocks], padded
    decode_lengths: Integers  # the token itself included
    prefills: list[PrefillChunk]
    _writes: dict[torch.Size, torch.Tensor] = field(default_factory=dict)
    _masks: dict[object, torch.Tensor] = field(default_factory=dict)
    _reads: dict[object, DecodeReads] = field(default_factory=dict)

    @property
    def num_decode(self) -> int:
        return len(self.decode_lengths)

    def writes(self, cache: torch.Tensor) -> torch.Tensor:
        """[num_tokens * kv_heads] int64: the rows of the cache that the step's keys or values go to."""
        rows = self._writes.get(cache.shape)
        if rows is None:
            kv_heads = np.arange(cache.shape[1])
            places = _rows(self.blocks[:, None], kv_heads, self.positions[:, None], cache)
            rows = torch.from_numpy(places.reshape(-1)).to(cache.device)
            self._writes[cache.shape] = rows
        return rows

    def decode_reads(self, window: int | None, heads: int, keys: torch.Tensor) -> DecodeReads:
        """Layers of one shape share it."""
        key = (window, heads, keys.shape)
        reads = self._reads.get(key)
        if reads is None:
            reads = self._reads[key] = DecodeReads(
                self.decode_tables, self.decode_lengths, window, heads, keys
            )
        return reads

    def prefill_mask(self, index: int, window: int | None) -> torch.Tensor:
        """[tokens of the chunk, its context], true where a token may look."""
        key = (index, window)
        mask = self._masks.get(key)
        if mask is None:
            chunk = self.prefills[index]
            positions = torch.arange(chunk.context_length, device=chunk.blocks.device)
            own = positions[chunk.context_length - (chunk.end - chunk.start) :, None]
            mask = positions <= own
            if window is not None:
                mask &= positions > own - window
            self._masks[key] = mask
        return mask


def _rows(blocks: Any, heads: Any, positions: Any, cache: torch.Tensor) -> Any:
    """Rows of `cache.view(-1, dim)`, from arrays that broadcast."""
    _, kv_heads, block_size, _ = cache.shape
    return (blocks * kv_heads + heads) * block_size + positions % block_size


def _beside_sinks(scores: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    """[..., 1]: what is left of the weights of `scores` [..., places] where a sink [...] takes part in the softmax.

    A sink is one more score, whose value is nothing: it only takes weight from the others.
    """
    return torch.sigmoid(scores.logsumexp(-1) - sinks).unsqueeze(-1)


class PagedAttention:
    """The attention of one model's layers, over the batch of the step at hand.

    Not every family hands what its forward is given on to its attention, so the batch is here.
    """

    def __init__(self) -> None:
        self.batch: PagedBatch | None = None  # set before a forward pass, cleared after it

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **how: Any,
    ) -> tuple[torch.Tensor, None]:
        assert self.batch is not None
        return paged_attention(module, query, key, value, self.batch, **how)


def install(model: PreTrainedModel, attention: Callable[..., Any]) -> None:
    """Makes a model attend through `attention`, which is told which sequences there are by other ways than a mask."""
    name = f"{NAME}_{next(_NUMBERS)}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, _no_mask)
    model.set_attn_implementation(name)


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """None for the model's code to make and to carry around."""


def paged_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, heads, num_tokens, key_dim]
    key: torch.Tensor,  # [1, kv_heads, num_tokens, key_dim]
    value: torch.Tensor,  # [1, kv_heads, num_tokens, value_dim]
    batch: PagedBatch,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,  # [heads]: attention sinks
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Returns ([1, num_tokens, heads, value_dim], None)."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    keys, values = batch.cache.keys[layer], batch.cache.values[layer]
    for cache, new in ((keys, key), (values, value)):
        rows = new[0].transpose(0, 1).reshape(-1, new.shape[-1])
        cache.view(-1, new.shape[-1]).index_copy_(0, batch.writes(cache), rows)

    q = query[0].transpose(0, 1)  # [num_tokens, heads, key_dim]
    score = Scoring(q.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    n = batch.num_decode
    if n == len(q):
        return _decode(q, keys, values, batch, sliding_window, score)[None], None

    num_tokens, heads, _ = q.shape
    out = torch.empty(num_tokens, heads, values.shape[-1], dtype=q.dtype, device=q.device)
    if n:
        out[:n] = _decode(q[:n], keys, values, batch, sliding_window, score)
    for index, chunk in enumerate(batch.prefills):
        tokens = slice(chunk.start, chunk.end)
        if chunk.context_length == chunk.end - chunk.start:
            k, v = key[0, :, tokens], value[0, :, tokens]
        else:
            k = _pages(keys, chunk.blocks)[:, : chunk.context_length]
            v = _pages(values, chunk.blocks)[:, : chunk.context_length]
        mask = batch.prefill_mask(index, sliding_window)
        out[tokens] = attend_grouped(q[tokens], k, v, mask, score)
    return out[None], None


def _decode(
    q: torch.Tensor,  # [sequences, heads, key_dim]
    keys: torch.Tensor,
    values: torch.Tensor,
    batch: PagedBatch,
    window: int | None,
    score: Scoring,
) -> torch.Tensor:
    """[sequences, heads, value_dim]"""
    n, heads, _ = q.shape
    reads = batch.decode_reads(window, heads, keys)
    scores = reads.pattern.products(
        q.reshape(n * heads, -1), keys.view(-1, keys.shape[-1]), score.scaling
    )
    weights = reads.softmax(score.capped(scores), score.sinks)
    return reads.pattern.sums(weights, values.view(-1, values.shape[-1])).view(n, heads, -1)


def _pages(cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """A copy of some pages as [heads, context, dim]."""
    return cache.index_select(0, blocks).transpose(0, 1).flatten(1, 2)


def attend_grouped(
    q: torch.Tensor,  # [tokens, heads, key_dim]
    k: torch.Tensor,  # [kv_heads, context, key_dim]
    v: torch.Tensor,  # [kv_heads, context, value_dim]
    mask: torch.Tensor | None,  # [tokens, context], true where a token may look; None: everywhere
    score: Scoring,
) -> torch.Tensor:
    """[tokens, heads, value_dim]. The query heads that share a key head are a group: no key is repeated."""
    tokens, heads, key_dim = q.shape
    group = heads // len(k)
    rows = q.reshape(tokens, len(k), group, key_dim).permute(1, 2, 0, 3)
    k, v = (t[:, None].expand(-1, group, -1, -1) for t in (k, v))
    attended = _attend(rows, k, v, mask, score)  # [kv_heads, group, tokens, value_dim]
    return attended.permute(2, 0, 1, 3).reshape(tokens, heads, v.shape[-1])


def _attend(
    q: torch.Tensor,  # [kv_heads, group, tokens, key_dim]
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    score: Scoring,
) -> torch.Tensor:
    if score.softcap is None and score.sinks is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=score.scaling)
    scores = score.capped(q @ k.transpose(-1, -2) * score.scaling).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1)
    if score.sinks is not None:
        weights = weights * _beside_sinks(scores, score.sinks.view(*q.shape[:2], 1))
    return weights.to(v.dtype) @ v
