"""What a kind of adapter must be able to tell of its files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lorry_registry.checks.adapter_config import AdapterConfig
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.entities import Base


@dataclass(frozen=True, slots=True)
class AdapterModule:
    """What an adapter holds for one linear layer of a base: y += scaling · B (A x)."""

    path: str  # as the base names it, `model.layers.0.self_attn.q_proj`
    rank: int
    scaling: float
    a: str  # name of the tensor A, [rank, in_features]
    b: str  # name of the tensor B, [out_features, rank]


class Kind(Protocol):
    """A kind of adapter. All methods raise InvalidArgument, naming the field, tensor or module that is wrong."""

    def parse_config(self, raw: Mapping[str, Any]) -> AdapterConfig:
        """Reads the configuration; refuses what is not served."""
        ...

    def read_modules(
        self, config: AdapterConfig, tensors: Mapping[str, TensorInfo], max_modules: int
    ) -> dict[str, AdapterModule]:
        """Puts every tensor in its place, by the module's path.

        A tensor without a place is refused, and so are more modules than `max_modules`, before the configuration
        is asked about any.
        """
        ...

    def check_fit(
        self, modules: Mapping[str, AdapterModule], tensors: Mapping[str, TensorInfo], base: Base
    ) -> None:
        """Holds the modules against the base's: paths, shapes, and the rank that its server accepts."""
        ...
