"""What an adapter may attach to in a base, and what the base costs in memory."""

from __future__ import annotations

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers.pytorch_utils import Conv1D


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Every linear layer by its dotted path, `lm_head` included -> (in_features, out_features).

    The paths are those of `model.named_modules()`, which PEFT matches its `target_modules` against;
    in an adapter's file they stand after `base_model.model.`.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):  # Linear4bit is one too
            shapes[path] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):  # GPT-2's linear layer keeps its weight as [in, out]
            in_features, out_features = module.weight.shape
            shapes[path] = (in_features, out_features)
    return shapes


def bytes_per_parameter(model: nn.Module) -> float:
    """Bytes held for each weight of the quantized layers: packed weights, scales and code tables.

    Raises ValueError when no layer is quantized.
    """
    held = parameters = 0
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state: QuantState = module.weight.quant_state
            held += module.weight.nbytes + _state_bytes(state)
            parameters += module.in_features * module.out_features
    if not parameters:
        raise ValueError("the model has no quantized layer; load it with Quantization(type='nf4')")
    return held / parameters


def _state_bytes(state: QuantState) -> int:
    parts: list[torch.Tensor | None] = [state.absmax, state.code, state.offset]
    nested: QuantState | None = getattr(state, "state2", None)
    own = sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
    return own + (_state_bytes(nested) if nested is not None else 0)
