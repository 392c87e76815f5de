"""What an adapter changes in the weights of a base, found by merging it in, one layer at a time, in float64.

PEFT's own conversion covers the kinds that know their delta; every kind that can be merged has one. In float64 the
difference of two weights is exact to 16 digits, so a change of low rank is seen as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from lorry_trainer.convert.float_base import Weights
from lorry_trainer.errors import ConversionError

PREFIX = "base_model.model."  # PEFT's, before every path of the base
NOTHING = 1e-9  # of a weight's norm: less than this is no change


@dataclass(frozen=True)
class Delta:
    """One linear layer's change."""

    path: str
    weight: torch.Tensor  # [out_features, in_features] float64
    bias: torch.Tensor | None  # [out_features] float64


def layers_of(model: Any, kind: str) -> list[tuple[str, Any]]:
    """The adapted layers by their paths in the base. Raises ConversionError where one is not linear."""
    layers: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        path = name.removeprefix(PREFIX)
        if isinstance(module, AuxiliaryTrainingWrapper):
            raise ConversionError(
                f"the adapter trained {path} whole, which a LoRA cannot hold: train without modules_to_save and "
                "trainable_token_indices"
            )
        if isinstance(module, BaseTunerLayer):
            if not isinstance(module.get_base_layer(), nn.Linear):
                layer = type(module.get_base_layer()).__name__
                raise ConversionError(
                    f"the {kind} adapter acts on {path}, a {layer}; only linear layers can be converted"
                )
            layers.append((path, module))
    return layers


@torch.no_grad()
def merge(layers: list[tuple[str, Any]], weights: Weights, kind: str) -> Iterator[Delta]:
    """Merges the layers in, in place, one after the other; gives what changed. Raises ConversionError."""
    for path, layer in layers:
        bias = layer.get_base_layer().bias
        bias = None if bias is None else bias.detach().double().clone()
        layer.double()
        try:
            layer.merge(safe_merge=True)
        except Exception as error:  # each kind has its own
            raise ConversionError(
                f"PEFT cannot merge the {kind} adapter into {path}: {error}"
            ) from error
        merged = layer.get_base_layer()
        own = weights[path]()
        delta = merged.weight.detach().double() - own
        if delta.norm() <= NOTHING * own.norm():
            delta = torch.zeros_like(delta)
        change = None if bias is None else merged.bias.detach().double() - bias
        layer.float()
        yield Delta(path, delta, change if change is not None and change.any() else None)
