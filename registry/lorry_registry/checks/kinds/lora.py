"""LoRA on linear layers and embeddings: plain and rank-stabilised, with DoRA's magnitudes, with biases.

PEFT's names: `<module>.lora_A.weight` and `….lora_B.weight`; of an embedding `….lora_embedding_A` and `…_B`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorry_registry.checks.adapter_config import (
    AdapterConfig,
    Refusal,
    flag,
    read_alpha,
    read_common,
    read_patterns,
    read_rank,
    unsupported,
)
from lorry_registry.checks.fit import check_parts
from lorry_registry.checks.names import ADAPTER, SAVED, refuse_tensor, take_apart
from lorry_registry.checks.parts import AdapterModule, Parts
from lorry_registry.checks.patterns import Patterns
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.checks.saved import (
    check_matrix_or_vector,
    is_tied_embedding,
    read_saved,
)
from lorry_registry.checks.targeting import is_targeted
from lorry_registry.entities import Base
from lorry_registry.errors import InvalidArgument

_NAMES: Mapping[str, str] = {
    "A": rf"\.lora_A{ADAPTER}\.weight",
    "B": rf"\.lora_B{ADAPTER}\.weight",
    "bias": rf"\.lora_B{ADAPTER}\.bias",
    "embedding_A": rf"\.lora_embedding_A{ADAPTER}",
    "embedding_B": rf"\.lora_embedding_B{ADAPTER}",
    # Old versions of PEFT kept a parameter there, newer ones a module with a weight; both are in use.
    "magnitude": r"\.lora_magnitude_vector(?:\.(?P<adapter>(?!weight$)[^.]+))?(?:\.weight)?",
    **SAVED,
}
_READ = {
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_bias",
    "r",
    "rank_pattern",
} | {
    "use_dora",
    "use_rslora",
}
# Settings of a start or of training; in what is saved there is nothing of them.
_IGNORED = {
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "qalora_group_size",
    "velora_config",  # saves memory in the backward pass
}
_MERGE = "merge it into the base, or train without it"
REFUSED = (
    Refusal(
        "target_parameters",
        "LoRA on bare parameters, as the fused experts and routers of a mixture are, is not served",
        "name linear layers in target_modules (PEFT takes 'all-linear' to mean experts too)",
    ),
    Refusal("layer_replication", "it changes the base's layers", "train without it"),
    Refusal(
        "alora_invocation_tokens",
        "activated LoRA is not served yet",
        "train with alora_invocation_tokens=None",
    ),
    Refusal("use_qalora", "QA-LoRA is not served", "train with use_qalora=False"),
    Refusal("use_bdlora", "BD-LoRA is not served", "train with use_bdlora=None"),
    Refusal("arrow_config", "Arrow routing is not served", "publish each expert by itself"),
    Refusal("kasa_config", "KaSA is not served", _MERGE),
    Refusal("monteclora_config", "MonteCLoRA is not served", _MERGE),
)
KEYS = frozenset(_READ | _IGNORED)
# These change the base's weights when training starts, and PEFT does so again when it loads the adapter; beside
# the base as it is, such factors mean something else.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig(AdapterConfig):
    """What of a LoRA's configuration matters when it is served."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Patterns
    alpha_pattern: Patterns
    use_dora: bool
    lora_bias: bool
    bias: str  # none, lora_only or all: which biases of the base were trained

    @property
    def rank_stabilized(self) -> bool:
        return self.use_rslora


def parse_lora_config(raw: Mapping[str, Any]) -> LoraConfig:
    """Reads what a LoRA's configuration must say.

    Raises:
        InvalidArgument: `CONFIG_INVALID` for a field that is missing or has no sense, `FEATURE_UNSUPPORTED` for
            one that asks for what is not served.
    """
    common = read_common(raw, known=KEYS, refused=REFUSED)
    bias = raw.get("bias") or "none"
    if bias not in ("none", "lora_only", "all"):
        raise unsupported("bias", f"{str(bias)[:40]!r} is not known", "train with bias='none'")
    init = raw.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS):
        raise unsupported(
            "init_lora_weights",
            f"{init[:40]!r} changes the base's weights when training starts",
            "save it as a plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    return LoraConfig(
        **common,
        rank=read_rank(raw.get("r"), "r"),
        alpha=read_alpha(raw.get("lora_alpha"), "lora_alpha"),
        use_rslora=flag(raw, "use_rslora"),
        rank_pattern=read_patterns(raw, "rank_pattern", read_rank),
        alpha_pattern=read_patterns(raw, "alpha_pattern", read_alpha),
        use_dora=flag(raw, "use_dora"),
        lora_bias=flag(raw, "lora_bias"),
        bias=bias,
    )


def module_rank(config: LoraConfig, module: str) -> int:
    """The rank that the configuration gives the module: its `rank_pattern`, else `r`."""
    return int(config.rank_pattern.value(module, config.rank))


def scaling(config: LoraConfig, module: str, rank: int) -> float:
    """What B·A is multiplied by: alpha / rank, or alpha / sqrt(rank) where rank-stabilised."""
    alpha = config.alpha_pattern.value(module, config.alpha)
    return alpha / math.sqrt(rank) if config.use_rslora else alpha / rank


class LoraKind:
    """The Kind `LORA`."""

    def parse_config(self, raw: Mapping[str, Any]) -> LoraConfig:
        return parse_lora_config(raw)

    def read_parts(
        self, config: LoraConfig, tensors: Mapping[str, TensorInfo], max_modules: int
    ) -> Parts:
        names = take_apart(tensors, _NAMES, config.peft_type)
        by_module: dict[str, dict[str, str]] = {}
        for name in names:
            if name.part not in SAVED:
                check_matrix_or_vector(name, tensors[name.tensor])
                by_module.setdefault(name.module, {})[name.part] = name.tensor
        if len(by_module) > max_modules:
            raise InvalidArgument(
                f"the file has LoRA for {len(by_module)} modules, and the base has {max_modules} that could have "
                "it: the adapter was trained on another base",
                reason="MODULES_TOO_MANY",
                modules=len(by_module),
                max_modules=max_modules,
            )
        config.rank_pattern.check_work(by_module)
        config.alpha_pattern.check_work(by_module)
        modules = {
            module: _module(config, module, parts, tensors) for module, parts in by_module.items()
        }
        biases = {"none": (), "lora_only": modules, "all": None}[config.bias]
        replaced, tokens, copies, heads = read_saved(
            config, (name for name in names if name.part in SAVED), tensors, biases
        )
        if not modules:
            raise InvalidArgument(
                "adapter_model.safetensors holds no LoRA: save the adapter after training it",
                reason="ADAPTER_EMPTY",
            )
        return Parts(modules=modules, replaced=replaced, tokens=tokens, copies=copies, heads=heads)

    def check_fit(
        self, config: LoraConfig, parts: Parts, tensors: Mapping[str, TensorInfo], base: Base
    ) -> None:
        check_parts(config, parts, tensors, base)


def _module(
    config: LoraConfig,
    module: str,
    parts: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
) -> AdapterModule:
    embedding = "embedding_A" in parts or "embedding_B" in parts
    of_embedding = "embedding_" if embedding else ""
    a, b = (_wanted(parts, of_embedding + half, module) for half in "AB")
    rank = module_rank(config, module)
    for name, axis in ((a, 0), (b, 1)):
        shape = tensors[name].shape
        if len(shape) != 2:
            raise refuse_tensor(
                f"tensor {name!r} has the shape {list(shape)}, and must be a matrix "
                "(a sharded model must be gathered before it is saved)",
                "SHAPE_MISMATCH",
                name,
                module,
            )
        if shape[axis] != rank:
            raise refuse_tensor(
                f"tensor {name!r} has rank {shape[axis]}, and adapter_config.json gives {module!r} "
                f"rank {rank}: correct r or rank_pattern",
                "RANK_MISMATCH",
                name,
                module,
            )
    if not (is_targeted(config, module) or is_tied_embedding(config, module)):
        raise refuse_tensor(
            f"tensor {a!r} is for module {module!r}, which adapter_config.json does not target: "
            "it would have no effect in PEFT",
            "TENSOR_UNKNOWN",
            a,
            module,
        )
    return AdapterModule(
        path=module,
        rank=rank,
        scaling=scaling(config, module, rank),
        a=a,
        b=b,
        magnitude=_claimed(parts, "magnitude", config.use_dora, "use_dora", module),
        bias=_claimed(parts, "bias", config.lora_bias, "lora_bias", module),
        embedding=embedding,
    )


def _wanted(parts: Mapping[str, str], part: str, module: str) -> str:
    if part not in parts:
        other = next(iter(parts.values()))
        raise refuse_tensor(
            f"module {module!r} has {other!r} but no lora_{part}: the file is incomplete, save the adapter again",
            "TENSOR_MISSING",
            other,
            module,
        )
    return parts[part]


def _claimed(parts: Mapping[str, str], part: str, claimed: bool, field: str, module: str) -> str:
    """The tensor that the configuration says there is, or "" where it says that there is none."""
    name = parts.get(part, "")
    if claimed != bool(name):
        has = f"the file has {name!r}" if name else f"the file has none for module {module!r}"
        raise refuse_tensor(
            f"adapter_config.json says {field}={str(claimed).lower()}, and {has}: save the adapter again",
            "KIND_MISMATCH",
            name,
            module,
        )
    return name
