"""Bottleneck adapters, in Lorry's own format (docs/formats.md): `y + scaling · up(act(down(y)))` after a linear layer.

The names: `<module>.bottleneck_down.weight` [size, features], `….bottleneck_down.bias` [size],
`….bottleneck_up.weight` [features, size], `….bottleneck_up.bias` [features].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorry_registry.checks.adapter_config import AdapterConfig, invalid_config, read_common
from lorry_registry.checks.fit import check_parts
from lorry_registry.checks.names import refuse_tensor, take_apart
from lorry_registry.checks.parts import BottleneckPart, Parts
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.checks.saved import check_matrix_or_vector
from lorry_registry.checks.targeting import is_targeted
from lorry_registry.entities import Base
from lorry_registry.errors import InvalidArgument

ACTIVATIONS = ("gelu", "relu", "silu", "tanh")
PLACEMENTS = ("houlsby", "pfeiffer")
_MAX_SIZE = 1 << 16
_MAX_SCALING = 1e6
_NAMES: Mapping[str, str] = {
    f"{half}.{kind}": rf"\.bottleneck_{half}\.{kind}"
    for half in ("down", "up")
    for kind in ("weight", "bias")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckConfig(AdapterConfig):
    """How the adapter acts wherever it sits."""

    size: int
    activation: str
    scaling: float


class BottleneckKind:
    """The Kind `BOTTLENECK`."""

    def parse_config(self, raw: Mapping[str, Any]) -> BottleneckConfig:
        size, scaling = raw.get("bottleneck_size"), raw.get("scaling", 1.0)
        if type(size) is not int or not 0 < size <= _MAX_SIZE:
            raise invalid_config(
                f"bottleneck_size is {str(size)[:40]!r}, and must be 1 or more",
                field="bottleneck_size",
            )
        if (
            type(scaling) not in (int, float)
            or not math.isfinite(scaling)
            or abs(scaling) > _MAX_SCALING
        ):
            raise invalid_config(
                f"scaling is {str(scaling)[:40]!r}, and must be a number of at most {_MAX_SCALING:,.0f}",
                field="scaling",
            )
        return BottleneckConfig(
            **read_common(raw, known={"activation", "bottleneck_size", "placement", "scaling"}),
            size=size,
            activation=_one_of(raw, "activation", ACTIVATIONS),
            scaling=float(scaling),
        )

    def read_parts(
        self, config: BottleneckConfig, tensors: Mapping[str, TensorInfo], max_modules: int
    ) -> Parts:
        _one_of(config.raw, "placement", PLACEMENTS)
        found: dict[str, dict[str, str]] = {}
        for name in take_apart(tensors, _NAMES, config.peft_type):
            check_matrix_or_vector(name, tensors[name.tensor])
            found.setdefault(name.module, {})[name.part] = name.tensor
        if not found:
            raise InvalidArgument(
                "adapter_model.safetensors holds no tensors: save the adapter after training it",
                reason="ADAPTER_EMPTY",
            )
        if len(found) > max_modules:
            raise InvalidArgument(
                f"the file has bottlenecks after {len(found)} modules, and the base has {max_modules}: the adapter "
                "was trained on another base",
                reason="MODULES_TOO_MANY",
                modules=len(found),
                max_modules=max_modules,
            )
        return Parts(
            bottlenecks={path: _part(config, path, names, tensors) for path, names in found.items()}
        )

    def check_fit(
        self, config: BottleneckConfig, parts: Parts, tensors: Mapping[str, TensorInfo], base: Base
    ) -> None:
        check_parts(config, parts, tensors, base)


def _part(
    config: BottleneckConfig, path: str, names: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> BottleneckPart:
    for part in _NAMES:
        if part not in names:
            raise refuse_tensor(
                f"module {path!r} has no bottleneck_{part}: the file is incomplete, save the adapter again",
                "TENSOR_MISSING",
                next(iter(names.values())),
                path,
            )
    up = tensors[names["up.weight"]].shape
    features = up[0]
    wanted = {
        "down.weight": (config.size, features),
        "down.bias": (config.size,),
        "up.weight": (features, config.size),
        "up.bias": (features,),
    }
    for part, shape in wanted.items():
        if tensors[names[part]].shape != shape:
            raise refuse_tensor(
                f"tensor {names[part]!r} has the shape {list(tensors[names[part]].shape)}, and must have "
                f"{list(shape)}, with the bottleneck_size of adapter_config.json",
                "SHAPE_MISMATCH",
                names[part],
                path,
            )
    if not is_targeted(config, path):
        raise refuse_tensor(
            f"tensor {names['up.weight']!r} is for module {path!r}, which target_modules in adapter_config.json "
            "does not name",
            "TENSOR_UNKNOWN",
            names["up.weight"],
            path,
        )
    return BottleneckPart(
        path=path,
        features=features,
        scaling=config.scaling,
        down_weight=names["down.weight"],
        down_bias=names["down.bias"],
        up_weight=names["up.weight"],
        up_bias=names["up.bias"],
    )


def _one_of(raw: Mapping[str, Any], field: str, choices: tuple[str, ...]) -> str:
    value = raw.get(field)
    if value not in choices:
        raise invalid_config(
            f"{field} is {str(value)[:40]!r}, and must be one of {', '.join(choices)}", field=field
        )
    return str(value)
