"""The kinds of adapter that can be published, by the `peft_type` that PEFT writes.

A kind is a module of this folder and one line in KINDS: how its configuration is read, which tensors it is made
of, and how they must fit a base.
"""

from collections.abc import Mapping
from typing import Any

from lorry_registry.checks.kinds.bottleneck import BottleneckKind
from lorry_registry.checks.kinds.contract import Kind
from lorry_registry.checks.kinds.ia3 import Ia3Kind
from lorry_registry.checks.kinds.lora import LoraKind
from lorry_registry.checks.kinds.unserved import CONVERTED, unserved
from lorry_registry.checks.kinds.virtual import VirtualKind
from lorry_registry.checks.kinds.whole import WholeKind
from lorry_registry.errors import InvalidArgument

KINDS: Mapping[str, Kind[Any]] = {
    "BOTTLENECK": BottleneckKind(),
    "CARTRIDGE": VirtualKind(injected=True),
    "CPT": VirtualKind(injected=False),
    "IA3": Ia3Kind(),
    "LN_TUNING": WholeKind(),
    "LORA": LoraKind(),
    "PREFIX_TUNING": VirtualKind(injected=True),
    "PROMPT_TUNING": VirtualKind(injected=False),
    "P_TUNING": VirtualKind(injected=False),
    "TRAINABLE_TOKENS": WholeKind(),
}

__all__ = ["CONVERTED", "KINDS", "Kind", "find_kind"]


def find_kind(peft_type: str) -> Kind[Any]:
    """The kind of that name. Raises InvalidArgument `KIND_UNSUPPORTED` with the reason and the nearest way."""
    kind = KINDS.get(peft_type)
    if kind is None:
        raise InvalidArgument(
            f"adapter_config.json: {unserved(peft_type[:60], sorted(KINDS))}",
            reason="KIND_UNSUPPORTED",
            kind=peft_type[:60],
            supported=",".join(sorted(KINDS)),
        )
    return kind
