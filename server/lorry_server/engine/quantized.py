"""A 4-bit layer's own product on a CPU: a tile of the weights at a time, through memory that stays warm.

bitsandbytes unpacks a whole layer into new memory at every call. For lorry-tiny what stands around the product takes
longer than the product; for larger layers the operating system zeroes the new pages first (54 ms against 3.4 ms for
one token through 2,048 → 8,192). Here the same numbers are unpacked into a buffer that fits a core's cache and is
used by every layer, and multiplied from there: the same bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import bitsandbytes
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.nn import functional

TILE_BYTES = 3 << 20  # unpacked; smaller tiles cost more calls, larger ones leave the cache
ROW_BLOCK = 64
WIDE_BYTES = 4 * TILE_BYTES

# Unpacks rows `[first, first + count)` of a layer into a tile.
Unpack = Callable[[int, int, torch.Tensor], None]
Product = Callable[[torch.Tensor], torch.Tensor]

# The function behind the operator is not part of bitsandbytes' public interface, and through the operator a call takes
# longer than unpacking a small layer. With another version the operator is used.
DIRECT_VERSIONS = ("0.50.",)
DIRECT = {
    "nf4": "cdequantize_blockwise_cpu_nf4_fp32",
    "fp4": "cdequantize_blockwise_cpu_fp4_fp32",
}


class TiledProducts:
    """The products of a model's 4-bit layers. For one thread: they share a tile."""

    def __init__(self) -> None:
        self._tile = torch.empty(0)

    def of(self, layer: nn.Module) -> Product:
        """What `layer(x)` computes, in float32; the layer itself where it is of another kind or elsewhere.

        Keeps the weights that the layer has now.
        """
        own: Product = layer.__call__
        if layer.weight.device.type != "cpu":
            return own
        if type(layer) is nn.Linear and layer.weight.nbytes > WIDE_BYTES:
            return _wide(layer)
        if not isinstance(layer, Linear4bit):
            return own
        state = layer.weight.quant_state
        if state.nested or layer.support_avx512bf16_for_cpu or state.shape[1] % state.blocksize:
            return own
        return self._product(layer, _direct(layer) or _through_operator(layer))

    def _product(self, layer: Linear4bit, unpack: Unpack) -> Product:
        num_out, num_in = layer.weight.quant_state.shape
        num_rows = min(num_out, rows_in_tile(num_in))
        if self._tile.numel() < num_rows * num_in:
            self._tile = torch.empty(num_rows * num_in)
        tile = self._tile[: num_rows * num_in].view(num_rows, num_in)
        bias: torch.Tensor | None = layer.bias

        def in_one(x: torch.Tensor) -> torch.Tensor:
            unpack(0, num_out, tile)
            return functional.linear(x, tile, bias)

        def unpacked(first: int, last: int) -> torch.Tensor:
            part = tile[: last - first]
            unpack(first, last - first, part)
            return part

        def in_tiles(x: torch.Tensor) -> torch.Tensor:
            return tiled_linear(x, unpacked, num_out, num_rows, bias)

        return in_one if num_rows == num_out else in_tiles


def _wide(layer: nn.Linear) -> Product:
    """An output head, say: its whole product would first lay the whole weight out anew, outside the cache."""
    weight, bias = layer.weight.detach(), layer.bias
    num_out, num_in = weight.shape

    def product(x: torch.Tensor) -> torch.Tensor:
        if x.numel() == num_in:
            return functional.linear(x, weight, bias)
        return tiled_linear(
            x, lambda first, last: weight[first:last], num_out, rows_in_tile(num_in), bias
        )

    return product


def rows_in_tile(num_in: int) -> int:
    """Whole blocks of rows, so that the product of a tile adds up in the order in which the whole one does."""
    return max(1, TILE_BYTES // (4 * num_in) // ROW_BLOCK) * ROW_BLOCK


def tiled_linear(
    x: torch.Tensor,
    rows: Callable[[int, int], torch.Tensor],
    num_out: int,
    num_rows: int,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """`linear(x, weight, bias)`, `num_rows` rows of the weight at a time."""
    y = x.new_empty(*x.shape[:-1], num_out)
    x_2d, y_2d = x.view(-1, x.shape[-1]), y.view(-1, num_out)
    for first in range(0, num_out, num_rows):
        last = min(num_out, first + num_rows)
        part, out = rows(first, last).t(), y_2d[:, first:last]
        if bias is None:
            torch.mm(x_2d, part, out=out)
        else:
            torch.addmm(bias[first:last], x_2d, part, out=out)
    return y


def _through_operator(layer: Linear4bit) -> Unpack:
    state = layer.weight.quant_state
    num_in, block_size = state.shape[1], state.blocksize
    packed = layer.weight.data.view(-1, num_in // 2)
    scales = state.absmax.view(-1, num_in // block_size)
    dequantize = torch.ops.bitsandbytes.dequantize_4bit.default

    def unpack(first: int, count: int, tile: torch.Tensor) -> None:
        rows = slice(first, first + count)
        shape = [count, num_in]
        tile.copy_(
            dequantize(
                packed[rows].reshape(-1, 1),
                scales[rows].reshape(-1),
                block_size,
                state.quant_type,
                shape,
                torch.float32,
            )
        )

    return unpack


def _direct(layer: Linear4bit) -> Unpack | None:
    if not bitsandbytes.__version__.startswith(DIRECT_VERSIONS):
        return None
    from bitsandbytes.cextension import lib

    state = layer.weight.quant_state
    function = getattr(lib, DIRECT[state.quant_type], None)
    packed, scales = layer.weight.data, state.absmax
    laid_out = packed.dtype == torch.uint8 and packed.is_contiguous() and scales.is_contiguous()
    if function is None or not laid_out or scales.dtype != torch.float32:
        return None
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_longlong] * 3)
    call = signature(ctypes.cast(function, ctypes.c_void_p).value or 0)
    num_in, block_size = state.shape[1], state.blocksize
    packed_row, scales_row = num_in // 2, num_in // block_size * scales.itemsize

    def unpack(first: int, count: int, tile: torch.Tensor) -> None:
        call(
            packed.data_ptr() + first * packed_row,
            scales.data_ptr() + first * scales_row,
            tile.data_ptr(),
            block_size,
            count,
            num_in,
        )

    return unpack
