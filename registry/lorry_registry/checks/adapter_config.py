"""`adapter_config.json` as PEFT writes it: read, and refused where it asks for what cannot be served.

The format grows with every PEFT release. What changes the numbers and is not served here is refused by name; what
concerns training alone is ignored; a key that nobody here knows, with a value that is set, is ignored too, and
told as a warning.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_registry.checks.patterns import Patterns, is_plain, repetitions
from lorry_registry.errors import InvalidArgument

MAX_CONFIG_BYTES = 1 << 20
MAX_ALPHA = 1e6
_MAX_PATTERN_KEYS = 8192
_MAX_EXPRESSIONS = 256
_MAX_REPEATING_KEYS = 16
_MAX_LAYERS_PATTERNS = 64
_SHOWN_UNKNOWN_KEYS = 16


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What of the configuration matters when the adapter is served."""

    peft_type: str
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Patterns
    alpha_pattern: Patterns
    target_modules: frozenset[str] | None  # None: a pattern, or all; the tensors tell
    exclude_modules: frozenset[str]
    layers_to_transform: frozenset[int]  # empty: all
    layers_pattern: tuple[str, ...]
    base_model_name: str
    raw: Mapping[str, Any]  # the whole object, for kinds that read more of it
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A key that asks for what is not served, why, and the nearest way."""

    key: str
    why: str
    way_out: str


_READ = {
    "alpha_pattern",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
}
# Who made it, of what; and what matters only while training.
_IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",  # how the base stores its weight; A and B are the same way round
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",  # saves memory in the backward pass
}
_MERGE = "merge it into the base, or train without it"
_REFUSED: Mapping[str, Refusal] = {
    refusal.key: refusal
    for refusal in (
        Refusal("use_dora", "DoRA is not served yet", "train with use_dora=False"),
        Refusal(
            "modules_to_save",
            "whole modules cannot be swapped per request",
            "train without modules_to_save, or serve the merged model as a base of its own",
        ),
        Refusal("lora_bias", "a bias on lora_B is not served", "train with lora_bias=False"),
        Refusal(
            "trainable_token_indices",
            "embeddings of single tokens cannot be swapped per request",
            "train without trainable_token_indices",
        ),
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
}
# These change the base's weights when training starts, and PEFT does so again when it loads the adapter; beside
# the base as it is, such factors mean something else.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")

_KNOWN = _READ | _IGNORED | _REFUSED.keys() | {"bias", "init_lora_weights"}


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in the file, whose `peft_type` is a string. Raises InvalidArgument `CONFIG_INVALID`."""
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise invalid_config(f"it has {size} bytes, more than {MAX_CONFIG_BYTES}")
    try:
        raw = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise invalid_config(f"it is no JSON: {str(error)[:120]}") from None
    if not isinstance(raw, dict):
        raise invalid_config("it is no JSON object")
    if not isinstance(raw.get("peft_type"), str):
        raise invalid_config(
            "peft_type is missing; save the adapter with PEFT's save_pretrained", field="peft_type"
        )
    return raw


def parse_lora_config(raw: Mapping[str, Any]) -> AdapterConfig:
    """Reads what a LoRA's configuration must say.

    Raises:
        InvalidArgument: `CONFIG_INVALID` for a field that is missing or has no sense, `FEATURE_UNSUPPORTED` for
            one that asks for what is not served.
    """
    _refuse_unsupported(raw)
    unknown = [key for key, value in raw.items() if value and key not in _KNOWN]
    warnings = tuple(
        f"adapter_config.json: {key[:80]!r} is not known here and was ignored"
        for key in unknown[:_SHOWN_UNKNOWN_KEYS]
    )
    use_rslora = raw.get("use_rslora") or False
    if not isinstance(use_rslora, bool):
        raise invalid_config("use_rslora is neither true nor false", field="use_rslora")
    targets = raw.get("target_modules")
    name = raw.get("base_model_name_or_path")
    return AdapterConfig(
        peft_type=raw["peft_type"],
        rank=_rank(raw.get("r"), "r"),
        alpha=_alpha(raw.get("lora_alpha"), "lora_alpha"),
        use_rslora=use_rslora,
        rank_pattern=_patterns(raw, "rank_pattern", _rank),
        alpha_pattern=_patterns(raw, "alpha_pattern", _alpha),
        target_modules=None
        if targets is None or isinstance(targets, str)
        else frozenset(_strings(targets, "target_modules")),
        exclude_modules=frozenset()
        if isinstance(raw.get("exclude_modules"), str)
        else frozenset(_strings(raw.get("exclude_modules"), "exclude_modules")),
        layers_to_transform=frozenset(_layers(raw.get("layers_to_transform"))),
        layers_pattern=_layers_pattern(raw.get("layers_pattern")),
        base_model_name=name if isinstance(name, str) else "",
        raw=raw,
        warnings=warnings,
    )


def invalid_config(fault: str, **metadata: object) -> InvalidArgument:
    """The error for a configuration that cannot be right."""
    return InvalidArgument(f"adapter_config.json: {fault}", reason="CONFIG_INVALID", **metadata)


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    for key, refusal in _REFUSED.items():
        if raw.get(key):
            raise _unsupported(key, refusal.why, refusal.way_out)
    if raw.get("bias") not in (None, "none"):
        raise _unsupported(
            "bias", f"{str(raw['bias'])[:40]!r} changes the base's biases", "train with bias='none'"
        )
    init = raw.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS):
        raise _unsupported(
            "init_lora_weights",
            f"{init[:40]!r} changes the base's weights when training starts",
            "save it as a plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )


def _unsupported(key: str, why: str, way_out: str) -> InvalidArgument:
    return InvalidArgument(
        f"adapter_config.json: {key} is set, and {why}: {way_out}",
        reason="FEATURE_UNSUPPORTED",
        field=key,
    )


def _rank(value: Any, field: str) -> int:
    if type(value) is not int or not 0 < value <= 1 << 16:
        raise invalid_config(
            f"{field} is {_short(value)}, and must be a rank, 1 or more", field=field
        )
    return value


def _alpha(value: Any, field: str) -> float:
    if type(value) not in (int, float) or abs(value) > MAX_ALPHA or not math.isfinite(value):
        raise invalid_config(
            f"{field} is {_short(value)}, and must be a number of at most {MAX_ALPHA:,.0f}",
            field=field,
        )
    return float(value)


def _patterns(raw: Mapping[str, Any], field: str, read: Callable[[Any, str], float]) -> Patterns:
    patterns = raw.get(field) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERN_KEYS:
        raise invalid_config(
            f"{field} must be an object of at most {_MAX_PATTERN_KEYS} patterns", field=field
        )
    expressions = [key for key in patterns if not is_plain(key)]
    if len(expressions) > _MAX_EXPRESSIONS:
        raise invalid_config(
            f"{field} has {len(expressions)} regular expressions, more than {_MAX_EXPRESSIONS}: write paths",
            field=field,
        )
    if sum(repetitions(key) > 0 for key in expressions) > _MAX_REPEATING_KEYS:
        raise invalid_config(
            f"{field} has more than {_MAX_REPEATING_KEYS} patterns that repeat: write paths",
            field=field,
        )
    return Patterns({key: read(value, f"{field}[{key[:80]!r}]") for key, value in patterns.items()})


def _strings(value: Any, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise invalid_config(f"{field} must be a list of names", field=field)
    return tuple(value)


def _layers_pattern(value: Any) -> tuple[str, ...]:
    names = _strings(value, "layers_pattern")
    if len(names) > _MAX_LAYERS_PATTERNS:
        raise invalid_config(
            f"layers_pattern has {len(names)} names, more than {_MAX_LAYERS_PATTERNS}: name the lists that "
            "the layers are in",
            field="layers_pattern",
        )
    return names


def _layers(value: Any) -> tuple[int, ...]:
    layers = [value] if type(value) is int else value or []
    if not isinstance(layers, list) or not all(type(v) is int for v in layers):
        raise invalid_config(
            "layers_to_transform must be a list of indexes", field="layers_to_transform"
        )
    return tuple(layers)


def _short(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
