"""What a kind of adapter must be able to tell of its files."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from lorry_registry.checks.adapter_config import AdapterConfig
from lorry_registry.checks.parts import Parts
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.entities import Base

C = TypeVar("C", bound=AdapterConfig)


class Kind(Protocol[C]):
    """A kind of adapter. All methods raise InvalidArgument, naming the field, tensor or module that is wrong."""

    def parse_config(self, raw: Mapping[str, Any]) -> C:
        """Reads the configuration; refuses what is not served."""
        ...

    def read_parts(self, config: C, tensors: Mapping[str, TensorInfo], max_modules: int) -> Parts:
        """Puts every tensor in its place.

        A tensor without a place is refused, and so are more modules than `max_modules`, before the configuration
        is asked about any.
        """
        ...

    def check_fit(
        self, config: C, parts: Parts, tensors: Mapping[str, TensorInfo], base: Base
    ) -> None:
        """Holds the parts against a base's: paths, shapes, and the rank that its server accepts."""
        ...
