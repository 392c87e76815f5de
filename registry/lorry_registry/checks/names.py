"""PEFT's names for an adapter's tensors, under every form that its versions have written.

`base_model.model.<module>.<part>`, without the prefix from some trainers, and with the adapter's name inside
(`lora_A.default.weight`, `modules_to_save.default.weight`) where a state dict was saved by hand. The parts that a kind
has are its own; those that any kind may have beside them are in `SAVED`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorry_registry.errors import InvalidArgument

PEFT_PREFIX = "base_model.model."
MAX_NAME_CHARACTERS = 600  # more than the longest path of a base and what surrounds it

ADAPTER = r"(?:\.(?P<adapter>[^.]+))?"  # the adapter's name, where it was saved
SAVED: Mapping[str, str] = {
    "tokens": rf"\.token_adapter\.trainable_tokens_delta{ADAPTER}",
    "copy": r"(?:\.token_adapter)?\.(?:base_layer|original_module)\.(?P<parameter>weight|bias)",
    "saved": r"\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<parameter>\S+)",
    "parameter": r"\.(?P<parameter>weight|bias)",
}
_KINDS_BY_MARK: Mapping[str, str] = {
    "lora_A": "LORA",
    "lora_B": "LORA",
    "lora_embedding_A": "LORA",
    "lora_embedding_B": "LORA",
    "lora_magnitude_vector": "LORA",
    "ia3_l": "IA3",
    "hada_w1_a": "LOHA",
    "lokr_w1": "LOKR",
    "vera_lambda_b": "VERA",
    "oft_R": "OFT",
    "boft_R": "BOFT",
    "ln_tuning_layers": "LN_TUNING",
    "prompt_embeddings": "PROMPT_TUNING",
}


@dataclass(frozen=True, slots=True)
class TensorName:
    """A tensor's name, taken apart."""

    tensor: str  # as in the file
    module: str  # dotted path in the base
    part: str
    parameter: str = ""  # of the module: `weight`, `bias`


def take_apart(
    tensors: Iterable[str], parts: Mapping[str, str], peft_type: str
) -> list[TensorName]:
    """Every tensor's name by the expressions of `parts`, the first that fits, each after the module's path.

    Raises InvalidArgument: `TENSOR_UNKNOWN` for one that fits none or belongs to another adapter than the others,
    `TENSOR_DUPLICATE` for two with one place, `KIND_MISMATCH` for one of another kind.
    """
    expressions = {part: re.compile(rf"(?P<module>\S+?){ending}") for part, ending in parts.items()}
    places: dict[tuple[str, str, str], str] = {}
    adapters: set[str] = set()
    names: list[TensorName] = []
    for tensor in tensors:
        name, adapter = _take_apart(tensor, expressions, peft_type)
        other = places.setdefault((name.module, name.part, name.parameter), tensor)
        if other != tensor:
            raise refuse_tensor(
                f"tensors {other!r} and {tensor!r} are for the same place: save one adapter at a time",
                "TENSOR_DUPLICATE",
                tensor,
                name.module,
            )
        if adapter is not None:
            adapters.add(adapter)
        if len(adapters) > 1:
            raise refuse_tensor(
                f"tensor {tensor!r} belongs to another adapter than those before it: "
                "save one adapter at a time, with save_pretrained",
                "TENSOR_UNKNOWN",
                tensor,
            )
        names.append(name)
    return names


def refuse_tensor(
    message: str, reason: str, tensor: str, module: str = "", base: str = ""
) -> InvalidArgument:
    """The error for a tensor that has no place, or does not fit the one it has."""
    return InvalidArgument(
        message, reason=reason, tensor=tensor[:200], module=module[:200], base=base
    )


def unknown_tensor(tensor: str, peft_type: str) -> InvalidArgument:
    """The error for a tensor that would have no effect."""
    return refuse_tensor(
        f"tensor {tensor[:200]!r} is no part of an adapter of the kind {peft_type}: it would have no effect. "
        "Save the adapter alone, with save_pretrained",
        "TENSOR_UNKNOWN",
        tensor,
    )


def _take_apart(
    tensor: str, expressions: Mapping[str, re.Pattern[str]], peft_type: str
) -> tuple[TensorName, str | None]:
    """The name, and that of the adapter: "" where it was left out, None where it has no place for one."""
    if len(tensor) > MAX_NAME_CHARACTERS:
        raise refuse_tensor(
            f"tensor {tensor[:120]!r}… has a name of {len(tensor)} characters: no base has such a module",
            "TENSOR_UNKNOWN",
            tensor,
        )
    path = tensor.removeprefix(PEFT_PREFIX)
    for part, expression in expressions.items():
        found = expression.fullmatch(path)
        if found is None:
            continue
        groups = found.groupdict()
        name = TensorName(tensor, groups["module"], part, groups.get("parameter") or "")
        if part in SAVED:
            _refuse_other_kinds(tensor, peft_type)
        return name, (groups["adapter"] or "") if "adapter" in groups else None
    _refuse_other_kinds(tensor, peft_type)
    raise unknown_tensor(tensor, peft_type)


def _refuse_other_kinds(tensor: str, peft_type: str) -> None:
    """What is left over may be what another kind is made of."""
    for component in tensor.split("."):
        kind = _KINDS_BY_MARK.get(component)
        if kind is not None and kind != peft_type:
            raise refuse_tensor(
                f"tensor {tensor[:200]!r} is {kind}'s, and adapter_config.json says {peft_type}: "
                "correct peft_type, or save the adapter again",
                "KIND_MISMATCH",
                tensor,
            )
