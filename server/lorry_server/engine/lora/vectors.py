"""What adapters add to a linear layer besides LoRA: vectors over its inputs and outputs, and whole matrices.

Vectors (IA³, DoRA's magnitudes, biases) lie in a table with a row for each slot, so that the decoding sequences of many
adapters take one operation, whatever their number; a prefill chunk takes its row as it is. Whole matrices and rows of
them (a trained output head) are kept as they came, and multiplied run by run. Nothing is done for the tokens of an
adapter that has no such part in the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from lorry_server.engine.adapters.weights import LinearUpdate
from lorry_server.engine.lora.rows import Picked, StepRows

Product = Callable[[torch.Tensor], torch.Tensor]


class VectorTable:
    """A vector for each slot that has one: [num_slots, features]."""

    def __init__(self, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.members: frozenset[int] = frozenset()
        self._num_slots = num_slots
        self._dtype = dtype
        self._device = device
        self._rows: torch.Tensor | None = None

    def write(self, slot: int, vector: torch.Tensor) -> None:
        if self._rows is None:
            # Not zeroed: a row is read only after it is written.
            shape = (self._num_slots, len(vector))
            self._rows = torch.empty(shape, dtype=self._dtype, device=self._device)
        self._rows[slot] = vector.to(self._device)
        self.members |= {slot}

    def clear(self, slot: int) -> None:
        if slot in self.members and self._rows is not None:
            self.members -= {slot}
            self._rows[slot] = 0

    def add_to(self, y: torch.Tensor, picked: Picked) -> None:
        """`y[token] += vector`."""
        table = self._table
        for tokens, slot in picked.long_runs:
            y[tokens].add_(table[slot])
        if picked.short is not None:
            y.index_add_(0, picked.short.tokens, table[picked.short.slots])

    def add_product_to(
        self,
        y: torch.Tensor,
        picked: Picked,
        factor: Callable[[slice | torch.Tensor], torch.Tensor],
    ) -> None:
        """`y[token] += vector ⊙ factor(token)`; `factor` is given the tokens' places."""
        table = self._table
        for tokens, slot in picked.long_runs:
            y[tokens].addcmul_(factor(tokens), table[slot])
        if picked.short is not None:
            short = picked.short
            y.index_add_(0, short.tokens, factor(short.tokens) * table[short.slots])

    @property
    def _table(self) -> torch.Tensor:
        assert self._rows is not None
        return self._rows


@dataclass(frozen=True, slots=True)
class Dense:
    """Matrices of one adapter in one layer, as `LinearUpdate` has them."""

    weight: torch.Tensor | None  # [out_features, in_features]
    indices: torch.Tensor | None  # of some outputs, [num_rows]
    rows: torch.Tensor | None  # [num_rows, in_features]

    def add_to(self, y: torch.Tensor, x: torch.Tensor) -> None:
        if self.weight is not None:
            y.addmm_(x, self.weight.t())
        if self.indices is not None and self.rows is not None:
            y.index_add_(1, self.indices, x @ self.rows.t())


@dataclass(slots=True)
class LayerVectors:
    """The slots of one linear layer, for what is not LoRA."""

    in_delta: VectorTable
    out_delta: VectorTable
    bias: VectorTable
    device: torch.device
    dense: Mapping[int, Dense] = field(default_factory=dict)  # by slot; replaced, never changed

    def write(self, slot: int, update: LinearUpdate) -> None:
        for table, vector in self._vectors(update):
            if vector is not None:
                table.write(slot, vector)
        rows = update.rows
        if update.weight is not None or rows is not None:
            weight = None if update.weight is None else update.weight.to(self.device)
            indices = None if rows is None else rows.indices.to(self.device)
            delta = None if rows is None else rows.delta.to(self.device)
            self.dense = {**self.dense, slot: Dense(weight, indices, delta)}

    def clear(self, slot: int) -> None:
        for table in (self.in_delta, self.out_delta, self.bias):
            table.clear(slot)
        if slot in self.dense:
            self.dense = {other: dense for other, dense in self.dense.items() if other != slot}

    def forward(
        self,
        product: Product,
        base: Product,
        base_bias: torch.Tensor | None,
        x: torch.Tensor,
        rows: StepRows,
    ) -> torch.Tensor:
        """`product(x)`, and for each token what its adapter adds; `x` is [num_tokens, in_features].

        `product` takes all tokens of the step at once, `base` any of them.
        """
        inner, outer = self.in_delta.members, self.out_delta.members
        scaled = x
        if (picked := rows.pick(inner)) is not None:
            scaled = x.clone()
            self.in_delta.add_product_to(scaled, picked, lambda tokens: x[tokens])
        y = product(scaled)
        if (picked := rows.pick(outer & inner)) is not None:
            # Both at once come of sums of adapters alone: what is scaled is the output for the input as it came.
            self._scale(y, picked, base_bias, lambda tokens: base(x[tokens]))
        if (picked := rows.pick(outer - inner)) is not None:
            self._scale(y, picked, base_bias, lambda tokens: y[tokens])
        if (picked := rows.pick(self.bias.members)) is not None:
            self.bias.add_to(y, picked)
        if dense := self.dense:
            for run in rows.runs:
                if run.slot in dense:
                    dense[run.slot].add_to(y[run.start : run.end], x[run.start : run.end])
        return y

    def _scale(
        self,
        y: torch.Tensor,
        picked: Picked,
        base_bias: torch.Tensor | None,
        outputs: Callable[[slice | torch.Tensor], torch.Tensor],
    ) -> None:
        if base_bias is None:
            self.out_delta.add_product_to(y, picked, outputs)
        else:
            self.out_delta.add_product_to(y, picked, lambda tokens: outputs(tokens) - base_bias)

    def _vectors(self, update: LinearUpdate) -> tuple[tuple[VectorTable, torch.Tensor | None], ...]:
        return (
            (self.in_delta, update.in_delta),
            (self.out_delta, update.out_delta),
            (self.bias, update.bias),
        )


def layer_vectors(num_slots: int, dtype: torch.dtype, device: torch.device) -> LayerVectors:
    """Empty slots for one layer."""
    in_delta, out_delta, bias = (VectorTable(num_slots, dtype, device) for _ in range(3))
    return LayerVectors(in_delta, out_delta, bias, device)
