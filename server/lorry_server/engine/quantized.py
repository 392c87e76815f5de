"""A bitsandbytes layer's own product, without what stands around it.

On a CPU with AVX512-BF16 a 4-bit layer is laid out anew at its first forward and from then on runs one kernel. Around
that kernel `Linear4bit` does what training, compiling and other layouts need, which costs as much as the kernel itself
where a step has few tokens. Same operator, same operands, same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Product = Callable[[torch.Tensor], torch.Tensor]


def product_of(layer: nn.Module) -> Product:
    """What `layer(x)` computes; the layer itself where it is of another kind, or not laid out anew.

    Keeps the weights that the layer has now.
    """
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    if state is None or not getattr(state, "packing_format_for_cpu", False) or state.nested:
        return layer.__call__
    run = torch.ops.bitsandbytes.gemv_4bit.default
    weight: torch.Tensor = layer.weight.data  # type: ignore[union-attr, assignment]
    bias: torch.Tensor | None = layer.bias  # type: ignore[assignment]
    rest = (list(state.shape), state.absmax, state.code, state.blocksize)

    def product(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = run(x.to(torch.bfloat16), weight, *rest).to(x.dtype)
        return y if bias is None else y.add_(bias)

    return product
