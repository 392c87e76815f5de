"""Embeddings with adapters beside them: LoRA on them, rows of a few tokens, whole ones.

An embedding runs once in a step, so what adapters add is added adapter by adapter; each keeps its parts as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from lorry_server.engine.adapters.weights import EmbeddingUpdate, RowsUpdate
from lorry_server.engine.lora.step import LoraStep


class EmbeddingSlots:
    """The slots of one embedding. Adds to its output by a forward hook, which is there from the first adapter on."""

    def __init__(self, module: nn.Module, step: LoraStep) -> None:
        self._step = step
        self._device = cast(torch.Tensor, module.weight).device
        self._scale: Any = getattr(
            module, "embed_scale", 1.0
        )  # Gemma 3 scales in the module itself
        self._updates: Mapping[int, EmbeddingUpdate] = {}  # replaced, never changed
        module.register_forward_hook(self._add)

    def write(self, slot: int, update: EmbeddingUpdate) -> None:
        self._updates = {**self._updates, slot: _moved(update, self._device)}

    def clear(self, slot: int) -> None:
        if slot in self._updates:
            self._updates = {s: update for s, update in self._updates.items() if s != slot}

    def _add(
        self, module: nn.Module, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        """`args[0]` is [1, num_tokens] ids, `y` [1, num_tokens, embedding_dim]."""
        rows, updates = self._step.tokens, self._updates
        runs = [] if rows is None else [run for run in rows.runs if run.slot in updates]
        if not runs:
            return None
        added = y.clone()
        for run in runs:
            tokens = slice(run.start, run.end)
            update = updates[run.slot]
            if update.out_delta is not None:
                added[0, tokens] += y[0, tokens] * update.out_delta
            delta = _lookup(update, args[0][0, tokens])
            if delta is not None:
                added[0, tokens] += delta * self._scale
        return added


def _lookup(update: EmbeddingUpdate, ids: torch.Tensor) -> torch.Tensor | None:
    """[num_tokens, embedding_dim]: what is added to the rows of these ids."""
    parts: list[torch.Tensor] = []
    if update.a is not None and update.b is not None:
        parts.append(functional.embedding(ids, update.a) @ update.b)
    if update.weight is not None:
        parts.append(functional.embedding(ids, update.weight))
    if update.rows is not None:
        parts.append(_of_rows(update.rows, ids))
    return sum(parts[1:], parts[0]) if parts else None


def _of_rows(rows: RowsUpdate, ids: torch.Tensor) -> torch.Tensor:
    places = torch.searchsorted(rows.indices, ids).clamp_(max=len(rows.indices) - 1)
    own = rows.indices[places] == ids
    return rows.delta[places] * own[:, None]


def _moved(update: EmbeddingUpdate, device: torch.device) -> EmbeddingUpdate:
    def move(part: torch.Tensor | None) -> torch.Tensor | None:
        return None if part is None else part.to(device)

    rows = update.rows
    return replace(
        update,
        a=move(update.a),
        b=move(update.b),
        out_delta=move(update.out_delta),
        weight=move(update.weight),
        rows=rows and RowsUpdate(rows.indices.to(device), rows.delta.to(device)),
    )
