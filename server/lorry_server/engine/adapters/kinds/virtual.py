"""Virtual tokens: embeddings as they are, or for each token the keys and values of all layers.

A row of those is [num_layers, 2, heads, dim].
"""

from __future__ import annotations

import torch

from lorry_registry.checks import AdapterFiles
from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.tensors import Tensors
from lorry_server.engine.adapters.weights import VirtualTokens


def read_virtual(
    files: AdapterFiles, tensors: Tensors, base: BaseView, into: WeightsBuilder
) -> None:
    """Raises FailedPrecondition `ADAPTER_BASE_MISMATCH` for keys and values that this base's cache does not take."""
    part, config = files.parts.virtual, files.config
    assert part is not None
    rows = tensors.read(part.tensor)
    if not part.injected:
        into.set_virtual(VirtualTokens(rows))
        return
    num_layers, num_heads = config.raw["num_layers"], config.raw["num_attention_heads"]
    dim = rows.shape[1] // (2 * num_layers * num_heads)
    _check_caches(base, num_layers, num_heads, dim)
    layers = rows.view(len(rows), num_layers, 2, num_heads, dim).permute(2, 1, 3, 0, 4)
    keys, values = (tuple(map(torch.Tensor.contiguous, each)) for each in layers)
    into.set_virtual(VirtualTokens(None, keys, values))


def _check_caches(base: BaseView, num_layers: int, num_heads: int, dim: int) -> None:
    shapes = {(cache.num_heads, cache.key_dim, cache.value_dim) for cache in base.caches.values()}
    if len(base.caches) != num_layers or shapes != {(num_heads, dim, dim)}:
        raise FailedPrecondition(
            f"The adapter has keys and values of {num_heads} heads of {dim} features for {num_layers} layers; the base "
            f"caches, for {len(base.caches)} layers, (heads, features of a key, of a value) {sorted(shapes)}. Train it "
            "on this base.",
            reason="ADAPTER_BASE_MISMATCH",
        )
