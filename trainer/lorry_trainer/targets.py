"""Names of layers in a recipe are names of layers of the base: PEFT passes over those that mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorry_trainer.errors import RecipeError
from lorry_trainer.recipe import Recipe

if TYPE_CHECKING:
    from lorry_bases.load import Base

_LISTS = {
    "lora": ("target_modules", "exclude_modules"),
    "ia3": ("target_modules", "feedforward_modules"),
    "bottleneck": ("target_modules",),
}


def refuse_targets(base: Base, recipe: Recipe) -> None:
    """Raise RecipeError naming each name that is no layer's."""
    paths = [path for path, _ in base.model.named_modules()]
    wrong = [
        f"{section}.{key} {name!r}"
        for section, keys in _LISTS.items()
        for key in keys
        for name in _listed(recipe, section, key)
        if not any(path == name or path.endswith(f".{name}") for path in paths)
    ]
    if wrong:
        raise RecipeError(
            f"{', '.join(wrong)}: no layer of {base.name!r} has that name. "
            f"Linear layers of {base.name!r}: {', '.join(linear_layers(base))}"
        )


def linear_layers(base: Base) -> list[str]:
    """The last parts of their names."""
    modules: Any = base.model.named_modules()
    return sorted({path.rpartition(".")[2] for path, m in modules if hasattr(m, "in_features")})


def _listed(recipe: Recipe, section: str, key: str) -> tuple[str, ...]:
    names = getattr(getattr(recipe, section), key, None)
    return names if isinstance(names, tuple) else ()
