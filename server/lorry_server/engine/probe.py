"""How each layer of a model attends and what it caches, seen by one token through an attention that only looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from lorry_server.engine.attention import KVShape

NAME = "lorry_look"
# What else a layer may hand to its attention without changing a number: where tokens stand is in `PagedBatch`.
_NO_MATTER = {"position_ids", "cache_position"}


@dataclass(frozen=True, slots=True)
class AttendingLayer:
    """One layer's call of transformers' attention interface."""

    shape: KVShape
    window: int | None
    unknown: frozenset[str]  # tensors that the call has beyond what `paged_attention` knows


@torch.inference_mode()
def attending_layers(model: PreTrainedModel) -> dict[int, AttendingLayer]:
    """The layers that attend through transformers' attention interface, by their index, or else by their order."""
    layers: dict[int, AttendingLayer] = {}

    def look(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        sliding_window: int | None = None,
        s_aux: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        layer = getattr(module, "layer_idx", None)
        layer = len(layers) if layer is None else layer
        tensors = {name for name, each in others.items() if isinstance(each, torch.Tensor)}
        layers[layer] = AttendingLayer(
            KVShape(key.shape[1], key.shape[3], value.shape[3]),
            sliding_window,
            frozenset(tensors - _NO_MATTER),
        )
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None

    AttentionInterface.register(NAME, look)
    AttentionMaskInterface.register(NAME, lambda *_args, **_kwargs: None)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
    finally:
        model.set_attn_implementation(before)
    return layers
