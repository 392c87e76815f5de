"""A finished linear layer with adapters beside it.

`wrap_linears` transforms a loaded model in place: the base's own layer runs as it is (quantized or not), and what the
step's adapters add is put on top of its output.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import cast

import torch
from torch import nn

from lorry_server.engine.lora.ops import add_lora
from lorry_server.engine.lora.slots import LoraSlots
from lorry_server.engine.lora.step import LoraStep
from lorry_server.engine.quantized import product_of


class LoraLinear(nn.Module):
    """`base(x)`, plus each token's own adapter."""

    def __init__(
        self, base: nn.Module, path: str, slots: LoraSlots, step: LoraStep, head: bool
    ) -> None:
        super().__init__()
        self.base = base
        self.path = path
        self._product = product_of(base)
        self._pools = slots.pools
        self._vectors = slots.vectors
        self._bottlenecks = slots.bottlenecks
        self._step = step
        self._head = head

    @property
    def weight(self) -> torch.Tensor:
        """The base layer's own weight: model code that looks at it sees what it would without adapters."""
        return cast(torch.Tensor, self.base.weight)

    @property
    def _bias(self) -> torch.Tensor | None:
        return cast(torch.Tensor | None, getattr(self.base, "bias", None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` is [1, num_tokens, in_features]."""
        step, pool = self._step, self._pools.get(self.path)
        everybody = step.logits if self._head else step.tokens
        product, beside = self._product, everybody
        if step.merged is not None and (shadow := step.merged.shadows.get(self.path)) is not None:
            divided = step.merged.logits if self._head else step.merged.tokens
            if divided is not None:
                product = partial(divided.product, shadow=shadow, base=self._product, pool=pool)
                beside = divided.beside
        if everybody is None:
            return product(x)
        vectors = self._vectors.get(self.path)
        y = (
            product(x)
            if vectors is None or beside is None
            else vectors.forward(product, self._product, self._bias, x[0], beside)[None]
        )
        if pool is not None and beside is not None:
            plan = beside.plan(pool.ranks)
            if plan is not None:
                add_lora(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), pool, plan)
        self._bottlenecks.add_to(self.path, y.view(-1, y.shape[-1]), everybody)
        return y


class LateLinear(LoraLinear):
    """A layer behind a model's last states: whatever it sees is of one text, in whatever shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` is [..., in_features]."""
        assert self._step.late is not None
        rows = x.reshape(1, -1, x.shape[-1])
        with self._step.late(rows.shape[1]):
            return super().forward(rows).view(*x.shape[:-1], -1)


def wrap_linears(
    model: nn.Module, paths: list[str], slots: LoraSlots, step: LoraStep, late: Collection[str] = ()
) -> None:
    """Wraps the layers at `paths` (dotted) in place; `late` ones are behind the last states."""
    output_head = getattr(model, "get_output_embeddings", lambda: None)()
    for path in paths:
        parent_path, _, name = path.rpartition(".")
        parent = model.get_submodule(parent_path)
        layer = parent.get_submodule(name)
        kind = LateLinear if path in late else LoraLinear
        setattr(parent, name, kind(layer, path, slots, step, head=layer is output_head))
