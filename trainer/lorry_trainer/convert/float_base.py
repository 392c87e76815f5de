"""A base as it is served, with plain numbers in every layer: what PEFT can merge any kind of adapter into.

The 4-bit weights stay beside it. They are what a change is measured against: an adapter acts on the base that is
served, and some kinds (OFT, BOFT, HRA) change a weight in proportion to what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import nn

from lorry_bases.load import Base

Weights = Mapping[str, Callable[[], torch.Tensor]]
"""The base's own weight of each linear layer by its path: [out_features, in_features] float64, made when asked for."""


def unpack(base: Base) -> Weights:
    """Puts plain layers in the place of the 4-bit ones of `base.model`."""
    weights: dict[str, Callable[[], torch.Tensor]] = {}
    model: Any = base.model
    for path, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            weights[path] = _packed(layer)
            _replace(model, path, _plain(layer))
        elif isinstance(layer, nn.Linear):
            weights[path] = _copied(layer.weight)
    return weights


def _packed(layer: Linear4bit) -> Callable[[], torch.Tensor]:
    packed, state = layer.weight.data, layer.weight.quant_state
    return lambda: dequantize_4bit(packed, state).double()


def _copied(weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    own = weight.detach().clone()  # a kind may write into the base's
    return lambda: own.double()


def _plain(layer: Linear4bit) -> nn.Linear:
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    plain = nn.Linear(
        layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
    )
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
    return plain


def _replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
