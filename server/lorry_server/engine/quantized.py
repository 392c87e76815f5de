"""Products of a base's linear layers on a CPU, a tile of the weights at a time.

bitsandbytes unpacks a whole 4-bit layer into new memory at every call, and decides anew how; for a small layer
that takes longer than its product, for a large one the operating system zeroes the new pages first. A tile is
unpacked into memory that was in use a moment ago and is multiplied while the cache still holds it. The same two
operators see the same numbers: the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.nn import functional

TILE_BYTES = 3 << 20  # unpacked; smaller tiles cost more calls, larger ones leave the cache
ROW_BLOCK = (
    64  # whole blocks of rows: a tile's product adds up in the order in which the whole one does
)
WIDE_BYTES = 4 * TILE_BYTES  # an unquantized layer (an output head) from here on is worth tiles

Product = Callable[[torch.Tensor], torch.Tensor]
Rows = Callable[[int, int], torch.Tensor]  # (first, last) -> [last - first, in_features]


def product_of(layer: nn.Module) -> Product:
    """What `layer(x)` computes, in float32; the layer itself where it is of another kind or elsewhere.

    Keeps the weights that the layer has now.
    """
    own: Product = layer.__call__
    if not isinstance(layer, nn.Linear) or layer.weight.device.type != "cpu":
        return own
    if not isinstance(layer, Linear4bit):
        weight = layer.weight.detach()
        wide = weight.nbytes > WIDE_BYTES
        return _product(lambda first, last: weight[first:last], layer) if wide else own
    state = layer.weight.quant_state
    if state.nested or layer.support_avx512bf16_for_cpu or state.shape[1] % state.blocksize:
        return own
    return _product(_unpacked(layer), layer)


def _unpacked(layer: Linear4bit) -> Rows:
    state, num_in = layer.weight.quant_state, layer.in_features
    packed = layer.weight.data.view(-1, num_in // 2)
    scales = state.absmax.view(-1, num_in // state.blocksize)
    dequantize = torch.ops.bitsandbytes.dequantize_4bit.default

    def rows(first: int, last: int) -> torch.Tensor:
        tile: torch.Tensor = dequantize(
            packed[first:last],
            scales[first:last],
            state.blocksize,
            state.quant_type,
            (last - first, num_in),
            torch.float32,
        )
        return tile

    return rows


def _product(rows: Rows, layer: nn.Linear) -> Product:
    num_in, num_out, bias = layer.in_features, layer.out_features, layer.bias
    step = max(1, TILE_BYTES // (4 * num_in) // ROW_BLOCK) * ROW_BLOCK

    def in_one(x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, rows(0, num_out), bias)

    def in_tiles(x: torch.Tensor) -> torch.Tensor:
        y = x.new_empty(*x.shape[:-1], num_out)
        x_2d, y_2d = x.view(-1, num_in), y.view(-1, num_out)
        for first in range(0, num_out, step):
            last = min(num_out, first + step)
            torch.mm(x_2d, rows(first, last).t(), out=y_2d[:, first:last])
        return y if bias is None else y.add_(bias)

    return in_one if num_out <= step else in_tiles
