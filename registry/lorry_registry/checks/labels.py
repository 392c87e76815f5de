"""`labels.json`: what an adapter's head calls its outputs, a JSON list of names in their order.

PEFT saves no names, and those in a base's own configuration are of another head. So the file is Lorry's own: the
trainer writes it, and whoever trained elsewhere puts it beside the adapter.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from lorry_registry.checks.parts import Parts
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.checks.saved import HEADS
from lorry_registry.errors import InvalidArgument

LABELS_FILE = "labels.json"
MAX_LABELS_BYTES = 1 << 20
_OUTPUTS = (*HEADS, "classifier.out_proj")  # the last layer of a head; RoBERTa and its kin have two


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in the file. Raises InvalidArgument `LABELS_INVALID` where they are no list of different names."""
    check_size(path.stat().st_size)
    try:
        names = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is no JSON: {str(error)[:120]}") from None
    if not isinstance(names, list):
        raise _invalid("it is no list")
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise _invalid(f"entry {index} is {json.dumps(name)[:60]}, and must be a name")
        if first.setdefault(name, index) != index:
            raise _invalid(f"entries {first[name]} and {index} are both {name[:60]!r}")
    return tuple(names)


def check_labels(names: tuple[str, ...], parts: Parts, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises InvalidArgument `LABELS_INVALID` where the head has not as many outputs as there are names."""
    outputs = tensors[head_of(parts)].shape[0]
    if len(names) != outputs:
        raise _invalid(f"it has {len(names)} names, and the adapter's head has {outputs} outputs")


def check_size(size_bytes: int) -> None:
    """Raises InvalidArgument `LABELS_INVALID` for a file that is too large to be read."""
    if size_bytes > MAX_LABELS_BYTES:
        raise _invalid(f"it has {size_bytes} bytes, more than {MAX_LABELS_BYTES}")


def head_of(parts: Parts) -> str:
    """The tensor [number of labels, features] of the head that classifies; empty where there is none."""
    brought = {**parts.replaced, **parts.heads}
    weights = (brought.get(f"{path}.weight", "") for path in _OUTPUTS)
    return next(filter(None, weights), "")


def _invalid(fault: str) -> InvalidArgument:
    return InvalidArgument(
        f"{LABELS_FILE}: {fault}: write the names of the head's outputs as a JSON list in their order, or leave the "
        "file out",
        reason="LABELS_INVALID",
        path=LABELS_FILE,
    )
