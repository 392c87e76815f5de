"""`adapter_config.json` as PEFT writes it: read, and refused where it asks for what cannot be served.

The format grows with every PEFT release. What changes the numbers and is not served here is refused by name; what
concerns training alone is ignored; a key that nobody here knows, with a value that is set, is ignored too, and
told as a warning.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Set
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
_MAX_MODULES_TO_SAVE = 256
_SHOWN_UNKNOWN_KEYS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What of a configuration matters for every kind when the adapter is served."""

    peft_type: str
    base_model_name: str
    target_modules: frozenset[str] | None  # None: a pattern, or all; the tensors tell
    exclude_modules: frozenset[str]
    layers_to_transform: frozenset[int]  # empty: all
    layers_pattern: tuple[str, ...]
    modules_to_save: tuple[str, ...]  # endings of the paths of modules that were trained whole
    token_indices: Mapping[str, tuple[int, ...]]
    """Of tokens whose embeddings were trained, by an ending of the module's path; "" is the input embedding."""
    ties_weights: bool  # what is trained in an embedding acts in the head that shares its weights
    allow_no_effect: bool  # Lorry's own key: it is meant to change nothing
    raw: Mapping[str, Any]  # the whole object, for kinds that read more of it
    warnings: tuple[str, ...] = ()

    @property
    def rank_stabilized(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A key that asks for what is not served, why, and the nearest way."""

    key: str
    why: str
    way_out: str


# Read for every kind.
_READ = {
    "allow_no_effect",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "peft_type",
    "target_modules",
    "trainable_token_indices",
    "ensure_weight_tying",
}
# Who made it, of what; and what matters only while training.
_IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",  # how the base stores its weight; what adapters hold is the same way round
    "inference_mode",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
}
COMMON_KEYS = frozenset(_READ | _IGNORED)


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


def read_common(
    raw: Mapping[str, Any], *, known: Set[str] = frozenset(), refused: Iterable[Refusal] = ()
) -> dict[str, Any]:
    """The fields of `AdapterConfig`, by name, for a kind that reads the keys `known` besides.

    Raises:
        InvalidArgument: `CONFIG_INVALID` for a field that is missing or has no sense, `FEATURE_UNSUPPORTED` for
            one of `refused` that is set.
    """
    refusals = {refusal.key: refusal for refusal in refused}
    for key, refusal in refusals.items():
        if raw.get(key):
            raise unsupported(key, refusal.why, refusal.way_out)
    all_known = COMMON_KEYS | refusals.keys() | known
    unknown = [key for key, value in raw.items() if value and key not in all_known]
    targets = raw.get("target_modules")
    name = raw.get("base_model_name_or_path")
    return {
        "peft_type": raw["peft_type"],
        "base_model_name": name if isinstance(name, str) else "",
        "target_modules": None
        if targets is None or isinstance(targets, str)
        else frozenset(strings(targets, "target_modules")),
        "exclude_modules": frozenset()
        if isinstance(raw.get("exclude_modules"), str)
        else frozenset(strings(raw.get("exclude_modules"), "exclude_modules")),
        "layers_to_transform": frozenset(_layers(raw.get("layers_to_transform"))),
        "layers_pattern": _layers_pattern(raw.get("layers_pattern")),
        "modules_to_save": _module_names(raw.get("modules_to_save")),
        "token_indices": token_indices(
            raw.get("trainable_token_indices"), "trainable_token_indices"
        ),
        "ties_weights": flag(raw, "ensure_weight_tying"),
        "allow_no_effect": flag(raw, "allow_no_effect"),
        "raw": raw,
        "warnings": tuple(
            f"adapter_config.json: {key[:80]!r} is not known here and was ignored"
            for key in unknown[:_SHOWN_UNKNOWN_KEYS]
        ),
    }


def invalid_config(fault: str, **metadata: object) -> InvalidArgument:
    """The error for a configuration that cannot be right."""
    return InvalidArgument(f"adapter_config.json: {fault}", reason="CONFIG_INVALID", **metadata)


def unsupported(key: str, why: str, way_out: str) -> InvalidArgument:
    """The error for a key that asks for what is not served."""
    return InvalidArgument(
        f"adapter_config.json: {key} is set, and {why}: {way_out}",
        reason="FEATURE_UNSUPPORTED",
        field=key,
    )


def flag(raw: Mapping[str, Any], field: str) -> bool:
    """True or false; what is absent is false."""
    value = raw.get(field) or False
    if not isinstance(value, bool):
        raise invalid_config(f"{field} is neither true nor false", field=field)
    return value


def token_indices(value: Any, field: str) -> dict[str, tuple[int, ...]]:
    """Lists of token ids by module, or one list for the input embedding, whose name is ""."""
    if value is None:
        return {}
    by_module = value if isinstance(value, dict) else {"": value}
    for indices in by_module.values():
        if not isinstance(indices, list) or not all(type(v) is int and v >= 0 for v in indices):
            raise invalid_config(f"{field} must be token ids, from 0 on", field=field)
    return {module: tuple(indices) for module, indices in by_module.items()}


def read_rank(value: Any, field: str) -> int:
    if type(value) is not int or not 0 < value <= 1 << 16:
        raise invalid_config(
            f"{field} is {_short(value)}, and must be a rank, 1 or more", field=field
        )
    return value


def read_alpha(value: Any, field: str) -> float:
    if type(value) not in (int, float) or abs(value) > MAX_ALPHA or not math.isfinite(value):
        raise invalid_config(
            f"{field} is {_short(value)}, and must be a number of at most {MAX_ALPHA:,.0f}",
            field=field,
        )
    return float(value)


def read_patterns(
    raw: Mapping[str, Any], field: str, read: Callable[[Any, str], float]
) -> Patterns:
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


def strings(value: Any, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise invalid_config(f"{field} must be a list of names", field=field)
    return tuple(value)


def _module_names(value: Any) -> tuple[str, ...]:
    names = strings(value, "modules_to_save")
    if len(names) > _MAX_MODULES_TO_SAVE or not all(names):
        raise invalid_config(
            f"modules_to_save must be at most {_MAX_MODULES_TO_SAVE} names, none of them empty",
            field="modules_to_save",
        )
    return names


def _layers_pattern(value: Any) -> tuple[str, ...]:
    names = strings(value, "layers_pattern")
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
