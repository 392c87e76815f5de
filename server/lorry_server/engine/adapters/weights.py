"""What an adapter does to a base, in the few forms that the engine runs. Every kind is read into these.

A form is additive where it can be: each field of a `LinearUpdate` is what the adapter *adds*, so that a weighted sum of
adapters is the weighted sum of their fields, exactly, whatever their kinds (low-rank factors are summed by laying them
side by side).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class LinearUpdate:
    """One linear layer's update. For a base layer `y = W x + c`, in float32 or the engine's dtype:

    `y' = W x + c  +  W (in_delta ⊙ x)  +  out_delta ⊙ (W x)  +  (x aᵀ) b  +  bias`

    A scale is already in `b`. What is None adds nothing.
    """

    a: torch.Tensor | None = None  # [rank, in_features]
    b: torch.Tensor | None = None  # [rank, out_features]
    in_delta: torch.Tensor | None = None  # [in_features]
    out_delta: torch.Tensor | None = None  # [out_features]
    bias: torch.Tensor | None = None  # [out_features]

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[0]

    @property
    def size_bytes(self) -> int:
        parts = (self.a, self.b, self.in_delta, self.out_delta, self.bias)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """All of one adapter, by the layers' dotted paths."""

    linears: Mapping[str, LinearUpdate] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return max((update.rank for update in self.linears.values()), default=0)

    @property
    def size_bytes(self) -> int:
        return sum(update.size_bytes for update in self.linears.values())
