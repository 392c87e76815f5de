"""An adapter's two files read together: configuration and tensors, each tensor in its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorry_registry.checks.adapter_config import AdapterConfig, read_config
from lorry_registry.checks.finite import check_finite
from lorry_registry.checks.kinds import AdapterModule, find_kind
from lorry_registry.checks.manifest import CONFIG_FILE, WEIGHTS_FILE
from lorry_registry.checks.safetensors_header import TensorInfo, read_header
from lorry_registry.entities import AdapterSpec, Base
from lorry_registry.errors import InvalidArgument
from lorry_registry.limits import MAX_BASE_MODULES


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter whose configuration and header hold together; no tensor byte was read yet."""

    config: AdapterConfig
    weights: Path  # the safetensors file that the tensors' offsets count in
    tensors: Mapping[str, TensorInfo]
    modules: Mapping[str, AdapterModule]

    @property
    def spec(self) -> AdapterSpec:
        return AdapterSpec(
            peft_type=self.config.peft_type,
            max_rank=max(module.rank for module in self.modules.values()),
            module_count=len(self.modules),
            parameter_count=sum(tensor.parameter_count for tensor in self.tensors.values()),
            size_bytes=sum(tensor.size_bytes for tensor in self.tensors.values()),
            rank_stabilized=self.config.use_rslora,
        )

    def check_finite(self) -> None:
        """Reads every tensor. Raises InvalidArgument `TENSOR_NOT_FINITE`, `TENSOR_OUT_OF_RANGE`."""
        scalings = {module.b: module.scaling for module in self.modules.values()}
        check_finite(self.weights, self.tensors, scalings)

    def check_fit(self, base: Base) -> None:
        """Raises InvalidArgument naming what does not fit `base`."""
        find_kind(self.config.peft_type).check_fit(self.modules, self.tensors, base)


def read_adapter(folder: Path, *, max_modules: int = MAX_BASE_MODULES) -> AdapterFiles:
    """Reads the adapter in a folder as PEFT saves it.

    Args:
        max_modules: a file with more is refused before anything is held against the configuration's patterns.

    Raises:
        InvalidArgument: a file is missing, or one of the checks refuses what it says.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InvalidArgument(
                f"{folder} has no {name}: it is no adapter folder as PEFT's save_pretrained writes it",
                reason="FILE_MISSING",
                path=name,
            )
    return read_adapter_files(folder / CONFIG_FILE, folder / WEIGHTS_FILE, max_modules=max_modules)


def read_adapter_files(
    config_path: Path, weights_path: Path, *, max_modules: int = MAX_BASE_MODULES
) -> AdapterFiles:
    """As `read_adapter`, where the two files have other names (blobs by digest)."""
    raw = read_config(config_path)
    kind = find_kind(raw["peft_type"])
    config = kind.parse_config(raw)
    tensors = read_header(weights_path)
    return AdapterFiles(
        config, weights_path, tensors, kind.read_modules(config, tensors, max_modules)
    )
