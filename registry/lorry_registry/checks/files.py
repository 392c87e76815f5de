"""An adapter's files read together: configuration and tensors, each tensor in its place, and the head's labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorry_registry.checks.adapter_config import AdapterConfig, read_config
from lorry_registry.checks.finite import check_finite
from lorry_registry.checks.kinds import find_kind
from lorry_registry.checks.labels import LABELS_FILE, check_labels, head_of, read_labels
from lorry_registry.checks.manifest import CONFIG_FILE, WEIGHTS_FILE
from lorry_registry.checks.parts import Parts
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
    parts: Parts

    @property
    def spec(self) -> AdapterSpec:
        return AdapterSpec(
            peft_type=self.config.peft_type,
            max_rank=self.parts.max_rank,
            module_count=self.parts.module_count,
            parameter_count=sum(tensor.parameter_count for tensor in self.tensors.values()),
            size_bytes=sum(tensor.size_bytes for tensor in self.tensors.values()),
            rank_stabilized=self.config.rank_stabilized,
        )

    def check_finite(self) -> None:
        """Reads every tensor.

        Raises InvalidArgument `TENSOR_NOT_FINITE`, `TENSOR_OUT_OF_RANGE`; `ADAPTER_HAS_NO_EFFECT` where all that it
        adds is zero, and the configuration does not say that it is meant to be.
        """
        zeros = check_finite(self.weights, self.tensors, self.parts.scalings)
        if not self.config.allow_no_effect and not self.parts.may_act(zeros):
            raise InvalidArgument(
                "the adapter changes nothing: every product of its factors is zero, as before any training. "
                'Publish what was trained, or say that it is meant to be so with "allow_no_effect": true in '
                "adapter_config.json",
                reason="ADAPTER_HAS_NO_EFFECT",
            )

    def check_fit(self, base: Base) -> None:
        """Raises InvalidArgument naming what does not fit `base`."""
        kind = find_kind(self.config.peft_type)
        kind.check_fit(self.config, self.parts, self.tensors, base)


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
    labels = folder / LABELS_FILE
    return read_adapter_files(
        folder / CONFIG_FILE,
        folder / WEIGHTS_FILE,
        labels if labels.is_file() else None,
        max_modules=max_modules,
    )


def read_adapter_files(
    config_path: Path,
    weights_path: Path,
    labels_path: Path | None = None,
    *,
    max_modules: int = MAX_BASE_MODULES,
) -> AdapterFiles:
    """As `read_adapter`, where the files have other names (blobs by digest).

    Where the adapter has no head that classifies, `labels.json` is a file like any other and is not read.
    """
    raw = read_config(config_path)
    kind = find_kind(raw["peft_type"])
    config = kind.parse_config(raw)
    tensors = read_header(weights_path)
    parts = kind.read_parts(config, tensors, max_modules)
    if labels_path is not None and head_of(parts):
        check_labels(read_labels(labels_path), parts, tensors)
    return AdapterFiles(config, weights_path, tensors, parts)
