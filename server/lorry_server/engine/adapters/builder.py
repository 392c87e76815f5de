"""Puts together what the parts of an adapter add, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from lorry_server.engine.adapters.weights import (
    AdapterWeights,
    Bottleneck,
    EmbeddingUpdate,
    Head,
    LinearUpdate,
    RowsUpdate,
    VirtualTokens,
)

_Fields = dict[str, torch.Tensor | RowsUpdate]


class WeightsBuilder:
    """Collects updates in float32, and gives them in the type that the engine computes in."""

    def __init__(
        self, dtype: torch.dtype, *, allow_no_effect: bool = False, task: str = ""
    ) -> None:
        """`task` is what the adapter was trained for, as PEFT calls it."""
        self.dtype = dtype
        self._task = task
        self._allow_no_effect = allow_no_effect
        self._linears: defaultdict[str, _Fields] = defaultdict(dict)
        self._embeddings: defaultdict[str, _Fields] = defaultdict(dict)
        self._head: dict[str, torch.Tensor] = {}
        self._parameters: dict[str, torch.Tensor] = {}
        self._bottlenecks: dict[str, Bottleneck] = {}
        self._virtual: VirtualTokens | None = None
        self._scalings: dict[str, float] = {}

    def add_to_linear(self, path: str, **fields: torch.Tensor | RowsUpdate | None) -> None:
        """Fields of `LinearUpdate`; two biases for one layer are added up."""
        self._add(self._linears[path], fields)

    def add_to_embedding(self, path: str, **fields: torch.Tensor | RowsUpdate | None) -> None:
        """Fields of `EmbeddingUpdate`."""
        self._add(self._embeddings[path], fields)

    def add_to_parameter(self, path: str, delta: torch.Tensor) -> None:
        self._parameters[path] = self._cast(delta)

    def add_to_head(self, path: str, value: torch.Tensor) -> None:
        """A parameter that the base does not have."""
        self._head[path] = self._cast(value)

    def set_virtual(self, tokens: VirtualTokens) -> None:
        cast = self._cast
        self._virtual = VirtualTokens(
            None if tokens.embeddings is None else cast(tokens.embeddings),
            tuple(map(cast, tokens.keys)),
            tuple(map(cast, tokens.values)),
        )

    def set_scaling(self, path: str, scaling: float) -> None:
        """What a layer's `b` was multiplied by."""
        self._scalings[path] = scaling

    def set_bottleneck(self, path: str, activation: str, **parts: torch.Tensor) -> None:
        """The fields of `Bottleneck`."""
        cast = {name: self._cast(part) for name, part in parts.items()}
        self._bottlenecks[path] = Bottleneck(activation=activation, **cast)

    def build(self) -> AdapterWeights:
        return AdapterWeights(
            linears={path: LinearUpdate(**_typed(f)) for path, f in self._linears.items() if f},
            embeddings={
                path: EmbeddingUpdate(**_typed(f)) for path, f in self._embeddings.items() if f
            },
            parameters=dict(self._parameters),
            head=Head(self._task, self._head) if self._head else None,
            bottlenecks=dict(self._bottlenecks),
            virtual=self._virtual,
            allow_no_effect=self._allow_no_effect,
            scalings=self._scalings,
        )

    def _add(self, known: _Fields, fields: dict[str, torch.Tensor | RowsUpdate | None]) -> None:
        for name, value in fields.items():
            if isinstance(value, torch.Tensor):
                before = known.get(name)
                total = value + before if isinstance(before, torch.Tensor) else value
                known[name] = self._cast(total)
            elif value is not None:
                known[name] = RowsUpdate(value.indices, self._cast(value.delta))

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        """On the CPU: host memory is where adapters wait for a slot."""
        return value.to("cpu", self.dtype).contiguous()


def _typed(fields: Any) -> Any:
    """The names were given by keyword; each class checks them itself."""
    return fields
