"""How two versions differ: what is said of them, their figures, and what their factors do, read from their files.

Nothing is multiplied out. Of low-rank factors, the norm of `B A` is that of an r × r product, since
`‖B A‖² = tr((Bᵀ B)(A Aᵀ))`; so is the inner product of two of them, `tr((B₁ᵀ B₂)(A₂ A₁ᵀ))`, and with it the norm of
their difference. One module's factors are in memory at a time.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorry_registry.checks import AdapterFiles, TensorInfo
from lorry_registry.checks.finite import CHUNK_BYTES, float_values
from lorry_registry.entities import Version

_A, _B = "lora_A.weight", "lora_B.weight"
_LARGEST_FACTOR_BYTES = 256 << 20  # of one that is read whole
_MAX_VALUE_CHARACTERS = 500

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ValueComparison:
    """An entry that differs, as JSON; empty where a version does not have it."""

    path: str
    first: str
    second: str


@dataclass(slots=True)
class ModuleComparison:
    """What two versions do to a module, in Frobenius norms; None where one has nothing there."""

    factors: dict[str, list[float | None]] = field(default_factory=dict)
    effects: list[float | None] = field(default_factory=lambda: [None, None])
    effect_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`metrics` and `modules` by name."""

    first: Version
    second: Version
    values: tuple[ValueComparison, ...]
    metrics: Mapping[str, tuple[float | None, float | None]]
    modules: Mapping[str, ModuleComparison]


@dataclass(frozen=True, slots=True)
class Side:
    """A version with its files at hand."""

    version: Version
    files: AdapterFiles
    config: Mapping[str, Any]  # adapter_config.json as it stands


def compare(first: Side, second: Side) -> Comparison:
    """Reads every tensor of both files once. Raises OSError."""
    metrics = [side.version.lineage.metrics for side in (first, second)]
    names = sorted({*metrics[0], *metrics[1]})
    return Comparison(
        first.version,
        second.version,
        tuple(_differences(_told(first), _told(second))),
        {name: (metrics[0].get(name), metrics[1].get(name)) for name in names},
        _modules(first.files, second.files),
    )


def _told(side: Side) -> dict[str, Any]:
    lineage = asdict(side.version.lineage)
    del lineage["metrics"]
    told = {f"config.{key}": value for key, value in side.config.items()}
    told |= {f"lineage.{key}": value for key, value in lineage.items()}
    return told | {f"spec.{key}": value for key, value in asdict(side.version.spec).items()}


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[ValueComparison]:
    found = []
    for path in sorted({*first, *second}):
        texts = [_text(side[path]) if path in side else "" for side in (first, second)]
        if texts[0] != texts[1]:
            found.append(ValueComparison(path, *(_clipped(text) for text in texts)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = sorted(value)  # PEFT writes sets as lists, in any order
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _clipped(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"


def _modules(first: AdapterFiles, second: AdapterFiles) -> dict[str, ModuleComparison]:
    sides = (first, second)
    modules: dict[str, ModuleComparison] = {}
    for name in sorted({*first.tensors, *second.tensors}):
        module, factor = _parted(name)
        found = modules.setdefault(module, ModuleComparison())
        found.factors[factor] = [
            _norm(side.weights, side.tensors[name]) if name in side.tensors else None
            for side in sides
        ]
    for module, found in modules.items():
        pairs = [_low_rank(side, module) for side in sides]
        found.effects = [None if pair is None else _inner(pair, pair) for pair in pairs]
        one, other = pairs
        if one is not None and other is not None and _same_shape(one, other):
            square = _inner(one, one) + _inner(other, other) - 2 * _inner(one, other)
            found.effect_difference = math.sqrt(max(0.0, square))
        found.effects = [
            None if square is None else math.sqrt(max(0.0, square)) for square in found.effects
        ]
    return modules


def _parted(name: str) -> tuple[str, str]:
    """The module and the factor: `….q_proj` and `lora_A.weight`."""
    parts = name.split(".")
    at = next((n for n, part in enumerate(parts) if part.startswith("lora_")), len(parts) - 1)
    return ".".join(parts[:at]) or name, ".".join(parts[at:])


def _low_rank(side: AdapterFiles, module: str) -> tuple[Matrix, Matrix] | None:
    """A [rank, in], and B [out, rank] with the scale in it; None where the module has no such factors."""
    infos = [side.tensors.get(f"{module}.{factor}") for factor in (_A, _B)]
    if any(
        info is None or len(info.shape) != 2 or info.size_bytes > _LARGEST_FACTOR_BYTES
        for info in infos
    ):
        return None
    down, up = (_whole(side.weights, info) for info in infos if info is not None)
    return down, up * side.parts.scalings.get(f"{module}.{_B}", 1.0)


def _inner(one: tuple[Matrix, Matrix], other: tuple[Matrix, Matrix]) -> float:
    """The inner product of `B₁ A₁` and `B₂ A₂`."""
    (down, up), (other_down, other_up) = one, other
    return float(np.sum((up.T @ other_up) * (down @ other_down.T)))


def _same_shape(one: tuple[Matrix, Matrix], other: tuple[Matrix, Matrix]) -> bool:
    shapes = [(down.shape[1], up.shape[0]) for down, up in (one, other)]
    return bool(shapes[0] == shapes[1])


def _whole(path: Path, info: TensorInfo) -> Matrix:
    with path.open("rb") as stream:
        stream.seek(info.start)
        values = float_values(stream.read(info.size_bytes), info.dtype)
    return values.astype(np.float64).reshape(info.shape)


def _norm(path: Path, info: TensorInfo) -> float | None:
    """Read in pieces; None of what holds no numbers with a point."""
    square = 0.0
    with path.open("rb") as stream:
        stream.seek(info.start)
        remaining = info.size_bytes
        while remaining:
            data = stream.read(min(remaining, CHUNK_BYTES))
            if not data or info.dtype not in ("F64", "F32", "F16", "BF16"):
                return None
            values = float_values(data, info.dtype).astype(np.float64)
            square += float(values @ values)
            remaining -= len(data)
    return math.sqrt(square)
