"""IA³."""

from __future__ import annotations

from typing import Any

from peft import IA3Config

from tests.engine.kinds.names import Names


def recipes(names: Names) -> dict[str, Any]:
    return {
        "ia3": IA3Config(
            target_modules=[*names.attention, names.down], feedforward_modules=[names.down]
        ),
        "ia3-everywhere": IA3Config(
            target_modules=[*names.attention, *names.mlp], feedforward_modules=[]
        ),
        "ia3-and-norms": IA3Config(
            target_modules=names.attention, feedforward_modules=[], modules_to_save=[names.norm]
        ),
    }
