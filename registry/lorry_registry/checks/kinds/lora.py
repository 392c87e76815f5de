"""LoRA and rank-stabilised LoRA on linear layers.

PEFT's names: `base_model.model.<module>.lora_A.weight` and `….lora_B.weight`, with the adapter's name between
(`lora_A.default.weight`) where the state dict was saved by hand, and without the prefix from some trainers.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from lorry_registry.checks.adapter_config import AdapterConfig, parse_lora_config
from lorry_registry.checks.kinds.contract import AdapterModule
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.checks.targeting import is_targeted
from lorry_registry.entities import Base
from lorry_registry.errors import InvalidArgument

PEFT_PREFIX = "base_model.model."
_NAME = re.compile(r"(?P<module>[^\s]+)\.lora_(?P<half>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_MAX_NAME_CHARACTERS = 600  # more than the longest path of a base and what surrounds it
_DTYPES = ("F32", "F16", "BF16", "F64")


def module_rank(config: AdapterConfig, module: str) -> int:
    """The rank that the configuration gives the module: its `rank_pattern`, else `r`."""
    return int(config.rank_pattern.value(module, config.rank))


def scaling(config: AdapterConfig, module: str, rank: int) -> float:
    """What B·A is multiplied by: alpha / rank, or alpha / sqrt(rank) where rank-stabilised."""
    alpha = config.alpha_pattern.value(module, config.alpha)
    return alpha / math.sqrt(rank) if config.use_rslora else alpha / rank


class LoraKind:
    """The Kind `LORA`."""

    def parse_config(self, raw: Mapping[str, Any]) -> AdapterConfig:
        return parse_lora_config(raw)

    def read_modules(
        self, config: AdapterConfig, tensors: Mapping[str, TensorInfo], max_modules: int
    ) -> dict[str, AdapterModule]:
        halves = _pair(tensors)
        if len(halves) > max_modules:
            raise InvalidArgument(
                f"the file has LoRA for {len(halves)} modules, and the base has {max_modules} linear layers: "
                "the adapter was trained on another base",
                reason="MODULES_TOO_MANY",
                modules=len(halves),
                max_modules=max_modules,
            )
        config.rank_pattern.check_work(halves)
        config.alpha_pattern.check_work(halves)
        modules: dict[str, AdapterModule] = {}
        for module, names in halves.items():
            for half, other in (("A", "B"), ("B", "A")):
                if half not in names:
                    raise _refuse(
                        f"module {module!r} has lora_{other} but no lora_{half}: "
                        "the file is incomplete, save the adapter again",
                        "TENSOR_MISSING",
                        names[other],
                        module,
                    )
            modules[module] = _module(config, module, names["A"], names["B"], tensors)
        if not modules:
            raise InvalidArgument(
                "adapter_model.safetensors holds no tensors: save the adapter after training it",
                reason="ADAPTER_EMPTY",
            )
        return modules

    def check_fit(
        self, modules: Mapping[str, AdapterModule], tensors: Mapping[str, TensorInfo], base: Base
    ) -> None:
        layers = {layer.path: layer for layer in base.modules}
        for module in modules.values():
            layer = layers.get(module.path)
            if layer is None:
                raise _refuse(
                    f"module {module.path!r} is no linear layer of base {_base(base)}: "
                    "the adapter was trained on another base, or on a layer that is not linear",
                    "MODULE_UNKNOWN",
                    module.a,
                    module.path,
                    base.fingerprint,
                )
            for name, got, wanted in (
                (module.a, tensors[module.a].shape[1], layer.in_features),
                (module.b, tensors[module.b].shape[0], layer.out_features),
            ):
                if got != wanted:
                    side = "input" if name == module.a else "output"
                    raise _refuse(
                        f"tensor {name!r} is for {got} {side} features, and {module.path!r} of base "
                        f"{_base(base)} has {wanted}: the adapter was trained on another base",
                        "SHAPE_MISMATCH",
                        name,
                        module.path,
                        base.fingerprint,
                    )
            if 0 < base.max_rank < module.rank:
                raise InvalidArgument(
                    f"module {module.path!r} has rank {module.rank}, and the server of base "
                    f"{_base(base)} accepts at most {base.max_rank}: train with a lower r, or start "
                    f"the server with --max-rank {module.rank}",
                    reason="RANK_ABOVE_CAP",
                    module=module.path,
                    rank=module.rank,
                    max_rank=base.max_rank,
                    base=base.fingerprint,
                )


def _pair(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, str]]:
    """Tensor names by module and half; every tensor is consumed or refused."""
    halves: dict[str, dict[str, str]] = {}
    adapters: set[str | None] = set()
    for name in tensors:
        if len(name) > _MAX_NAME_CHARACTERS:
            raise _refuse(
                f"tensor {name[:120]!r}… has a name of {len(name)} characters: no base has such a module",
                "TENSOR_UNKNOWN",
                name,
            )
        found = _NAME.fullmatch(name)
        if found is None:
            raise _refuse(_unknown(name), "TENSOR_UNKNOWN", name)
        module = found["module"].removeprefix(PEFT_PREFIX)
        names = halves.setdefault(module, {})
        if found["half"] in names:
            raise _refuse(
                f"tensors {names[found['half']]!r} and {name!r} are for the same place: "
                "save one adapter at a time",
                "TENSOR_DUPLICATE",
                name,
                module,
            )
        names[found["half"]] = name
        adapters.add(found["adapter"])
        if len(adapters) > 1:
            raise _refuse(
                f"tensor {name!r} belongs to another adapter than those before it: "
                "save one adapter at a time, with save_pretrained",
                "TENSOR_UNKNOWN",
                name,
            )
    return halves


def _unknown(name: str) -> str:
    shown = name[:200]
    if "lora_embedding_" in name:
        return (
            f"tensor {shown!r} is LoRA on an embedding, which is not served: "
            "leave embeddings out of target_modules"
        )
    if "lora_magnitude_vector" in name:
        return f"tensor {shown!r} is DoRA's, which is not served yet: train with use_dora=False"
    if name.endswith(".base_layer.weight"):
        # PEFT adds these by itself where the head or the embedding is targeted. Whether they still are the base's
        # own cannot be known here.
        return (
            f"tensor {shown!r} is a weight of the base, which an adapter cannot replace: save with "
            "save_pretrained(..., save_embedding_layers=False)"
        )
    return (
        f"tensor {shown!r} is no part of a LoRA: it would have no effect. "
        "Save the adapter alone, without whole modules or embeddings"
    )


def _module(
    config: AdapterConfig, module: str, a: str, b: str, tensors: Mapping[str, TensorInfo]
) -> AdapterModule:
    for name in (a, b):
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise _refuse(
                f"tensor {name!r} is of type {tensor.dtype}, and must be one of {', '.join(_DTYPES)}",
                "DTYPE_UNSUPPORTED",
                name,
                module,
            )
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise _refuse(
                f"tensor {name!r} has the shape {list(tensor.shape)}, and must be a matrix "
                "(a sharded model must be gathered before it is saved)",
                "SHAPE_MISMATCH",
                name,
                module,
            )
    rank = module_rank(config, module)
    for name, got in ((a, tensors[a].shape[0]), (b, tensors[b].shape[1])):
        if got != rank:
            raise _refuse(
                f"tensor {name!r} has rank {got}, and adapter_config.json gives {module!r} "
                f"rank {rank}: correct r or rank_pattern",
                "RANK_MISMATCH",
                name,
                module,
            )
    if not is_targeted(config, module):
        raise _refuse(
            f"tensor {a!r} is for module {module!r}, which adapter_config.json does not target: "
            "it would have no effect in PEFT",
            "TENSOR_UNKNOWN",
            a,
            module,
        )
    return AdapterModule(module, rank, scaling(config, module, rank), a, b)


def _base(base: Base) -> str:
    return f"{base.display_name or 'unnamed'} ({base.fingerprint[:19]}…)"


def _refuse(
    message: str, reason: str, tensor: str, module: str = "", base: str = ""
) -> InvalidArgument:
    return InvalidArgument(
        message, reason=reason, tensor=tensor[:200], module=module[:200], base=base
    )
