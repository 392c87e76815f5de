"""Bases that are loaded once for several runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from lorry_trainer.data import Examples
from lorry_trainer.prepare import held, load_base
from lorry_trainer.recipe import Recipe

if TYPE_CHECKING:
    from lorry_bases.load import Base
    from lorry_trainer.objectives.contract import Objective


class Bases:
    """What `prepare` may be given to load with. A base with a head of its own (labels, rewards) is never shared."""

    def __init__(self, load: Callable[[Recipe, Objective, Examples], Base] = load_base) -> None:
        self._load = load
        self._loaded: dict[Hashable, Base] = {}

    def __call__(self, recipe: Recipe, objective: Objective, data: Examples) -> Base:
        if objective.task != "CAUSAL_LM":
            return self._load(recipe, objective, data)
        key = (recipe.base, held(recipe), recipe.training.device)
        if key not in self._loaded:
            self._loaded[key] = self._load(recipe, objective, data)
        return self._loaded[key]
