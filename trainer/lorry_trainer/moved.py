"""A recipe written into another folder: what is named relative to the first one stays the file that it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lorry_trainer.recipe import Recipe

_FILES = {
    "data": ("path", "train", "validation", "test"),
    "evaluation": ("general", "reward"),
    "reinforcement": ("reward",),
}


def moved(recipe: Recipe, old: Path, new: Path) -> dict[str, Any]:
    """The values that are no defaults, as JSON has them."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    for section, keys in _FILES.items():
        for key in keys:
            if name := values.get(section, {}).get(key):
                values[section][key] = _from(name, old, new)
    return values


def _from(name: str, old: Path, new: Path) -> str:
    """Names that mean no file, `hub:org/name` or `exact_match`, stay as they are."""
    file, colon, function = name.partition(":")
    if Path(file).is_absolute() or not (old / file).exists():
        return name
    return os.path.relpath((old / file).resolve(), new.resolve()) + colon + function
