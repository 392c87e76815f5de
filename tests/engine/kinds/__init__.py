"""The kinds of adapter that the engine must serve as PEFT does: each a recipe for every base, in a module of its own.

A kind joins the contract suite (`test_kinds.py`) by a module here and a line in RECIPES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.engine.kinds import ia3, lora, virtual, whole
from tests.engine.kinds.names import NAMES, Names

Recipes = Mapping[str, Any]  # PEFT configurations by a name that says what is special

KINDS: tuple[Callable[[Names], Recipes], ...] = (
    lora.recipes,
    ia3.recipes,
    whole.recipes,
    virtual.recipes,
)


def recipes(base: str) -> dict[str, Any]:
    """All configurations for one of the bases of `tests.engine.bases`."""
    return {name: config for kind in KINDS for name, config in kind(NAMES[base]).items()}
