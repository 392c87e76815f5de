"""One adapter folded into copies of the base's weights: for its tokens a layer is one product, as without adapters.

The base's own weights stay as they are, packed, and the copies (*shadows*) lie beside them: whoever is not of the
merged adapter gets the base's product all the same, in the same batch. Where the adapter is LoRA in a layer, all tokens
take the shadow, and from the others what it adds is taken off again: on a CPU that costs less than unpacking 4-bit
weights does (measured, `loadtests/merged.py`). Elsewhere the others take the base's own product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from lorry_server.engine.adapters.weights import LinearUpdate
from lorry_server.engine.lora.ops import add_lora
from lorry_server.engine.lora.rows import Run, StepRows
from lorry_server.engine.lora.slots import LayerPool
from lorry_server.engine.quantized import Product


@dataclass(frozen=True, slots=True)
class Shadow:
    """A layer's weights with an adapter in them, in the engine's dtype."""

    weight: torch.Tensor  # [out_features, in_features]
    bias: torch.Tensor | None  # [out_features]
    is_low_rank: bool  # what the adapter adds is in its slot's LoRA rows, and nowhere else

    @property
    def size_bytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


@dataclass(frozen=True, slots=True)
class Merged:
    """An adapter that is merged: the slot that holds it as well, and its shadows by the layers' paths."""

    slot: int
    shadows: Mapping[str, Shadow]

    @property
    def size_bytes(self) -> int:
        return sum(shadow.size_bytes for shadow in self.shadows.values())


def fold(
    update: LinearUpdate, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> Shadow:
    """The layer that does what `weight` [out_features, in_features] and `bias` do with `update`, float32 in between.

    `W' = W (1 + in_delta) + (1 + out_delta) W - W + bᵀ a + weight + rows`, as `LinearUpdate` has it.
    """

    def here(part: torch.Tensor) -> torch.Tensor:
        return part.to(weight.device, torch.float32)

    folded = weight.float().clone()
    if update.in_delta is not None:
        folded += weight * here(update.in_delta)
    if update.out_delta is not None:
        folded += weight * here(update.out_delta)[:, None]
    if update.a is not None and update.b is not None:
        folded.addmm_(here(update.b).t(), here(update.a))
    if update.weight is not None:
        folded += here(update.weight)
    if update.rows is not None:
        folded.index_add_(0, update.rows.indices.to(weight.device), here(update.rows.delta))
    if update.bias is not None:
        bias = here(update.bias) if bias is None else bias.float() + here(update.bias)
    return Shadow(
        folded.to(dtype), None if bias is None else bias.to(dtype), not update.has_vectors
    )


def shadow_bytes(
    updates: Mapping[str, LinearUpdate],
    shapes: Mapping[str, tuple[int, int]],
    dtype: torch.dtype,
) -> int:
    """What the shadows will take: a matrix and at most a bias for each layer, {path: (in, out)}."""
    return sum((shapes[path][0] + 1) * shapes[path][1] for path in updates) * dtype.itemsize


@dataclass(frozen=True, slots=True)
class MergedRows:
    """How the tokens of a step divide, as the layers that see them have it."""

    own: torch.Tensor  # [n] int64: the merged adapter's
    others: torch.Tensor  # [m] int64: all the rest
    beside: StepRows | None  # the other adapters' runs
    off: (
        StepRows | None
    )  # all tokens but its own, as if the merged adapter's: what is to be taken off

    def product(
        self, x: torch.Tensor, shadow: Shadow, base: Product, pool: LayerPool | None
    ) -> torch.Tensor:
        """`W' x` for its own tokens and `W x` for the others; `x` is [1, num_tokens, in_features] or without the 1."""
        if self.off is None:
            return functional.linear(x, shadow.weight, shadow.bias)
        rows = x.view(-1, x.shape[-1])
        if shadow.is_low_rank and pool is not None:
            y = functional.linear(rows, shadow.weight, shadow.bias)
            plan = self.off.plan(pool.ranks)
            if plan is not None:
                add_lora(y, rows, pool, plan, scale=-1.0)
        else:
            y = rows.new_empty(len(rows), len(shadow.weight))
            y[self.own] = functional.linear(rows[self.own], shadow.weight, shadow.bias)
            y[self.others] = base(rows[self.others])
        return y.view(*x.shape[:-1], y.shape[-1])


@dataclass(frozen=True, slots=True)
class MergedStep:
    """How a step runs in which there are tokens of the merged adapter."""

    shadows: Mapping[str, Shadow]
    tokens: MergedRows
    logits: MergedRows | None  # None where none of those that are sampled from is its own


def divide(
    runs: list[Run],
    slot: int,
    num_tokens: int,
    device: torch.device,
    make: Callable[[list[Run]], StepRows | None],
) -> MergedRows | None:
    """How `num_tokens` divide, of which `runs` have adapters; None where none is of the adapter in `slot`."""
    own = sorted((run for run in runs if run.slot == slot), key=lambda run: run.start)
    if not own:
        return None
    ends = [0, *(run.end for run in own)]
    starts = [*(run.start for run in own), num_tokens]
    others = [Run(end, start, slot) for end, start in zip(ends, starts, strict=True) if end < start]
    return MergedRows(
        _places(own, device),
        _places(others, device),
        make([run for run in runs if run.slot != slot]),
        make(others),
    )


def _places(runs: list[Run], device: torch.device) -> torch.Tensor:
    places = [place for run in runs for place in range(run.start, run.end)]
    return torch.tensor(places, dtype=torch.int64, device=device)
