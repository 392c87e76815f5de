"""A 4-bit layer's own product on a CPU, without what stands around it.

`Linear4bit` decides at every call how to multiply, for training, compiling and other devices; where a step has few
tokens that takes as long as the product. Here the same two operators get the same operands: the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.nn import functional

Product = Callable[[torch.Tensor], torch.Tensor]


def product_of(layer: nn.Module) -> Product:
    """What `layer(x)` computes, in float32; the layer itself where it is of another kind or elsewhere.

    Keeps the weights that the layer has now.
    """
    own: Product = layer.__call__
    if not isinstance(layer, Linear4bit) or layer.weight.device.type != "cpu":
        return own
    state = layer.weight.quant_state
    if state.nested or layer.support_avx512bf16_for_cpu:
        return own
    dequantize = torch.ops.bitsandbytes.dequantize_4bit.default
    packed, bias = layer.weight.data, layer.bias
    operands = (state.absmax, state.blocksize, state.quant_type, list(state.shape), torch.float32)

    def product(x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, dequantize(packed, *operands), bias)

    return product
