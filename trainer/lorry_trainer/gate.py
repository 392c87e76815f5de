"""Whether a result is good enough for an alias: the recipe's `require`, held against the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lorry_trainer.errors import RecipeError
from lorry_trainer.recipe import UNBOUNDED, Metric, Requirement


def refuse_unreachable(require: Mapping[Metric, Requirement]) -> None:
    """Raise RecipeError where a figure that is a share is to be what no share is: a percentage, most likely."""
    for name, wanted in require.items():
        if name in UNBOUNDED:
            continue
        for key, bound in wanted.model_dump(exclude_none=True).items():
            lowest = -1 if key.endswith("base") else 0  # of a difference of two shares, or of one
            if not lowest <= bound <= 1:
                raise RecipeError(
                    f"require.{name}.{key} is {bound:g}, and {name} lies between 0 and 1; give a share, as in 0.9"
                )


def shortfalls(require: Mapping[Metric, Requirement], metrics: dict[str, float]) -> list[str]:
    """What is not good enough, in words; nothing where all is. A figure that was not measured, or is no finite number,
    is not good enough."""
    return [
        complaint
        for name, wanted in sorted(require.items())
        for complaint in _of(name, wanted, metrics)
    ]


def _of(name: str, wanted: Requirement, metrics: dict[str, float]) -> list[str]:
    got, bare = metrics.get(f"test_{name}"), metrics.get(f"base_test_{name}")
    if got is None:
        return [f"{name} was not measured; there may be no test rows, or the answers no labels"]
    if not math.isfinite(got):
        return [f"{name} is {got}, which is no number to hold against anything"]
    said = []
    if wanted.min is not None and got < wanted.min:
        said.append(f"{name} is {got:.4g}, and at least {wanted.min:g} is required")
    if wanted.max is not None and got > wanted.max:
        said.append(f"{name} is {got:.4g}, and at most {wanted.max:g} is allowed")
    for bound, sign in ((wanted.above_base, 1), (wanted.below_base, -1)):
        if bound is None:
            continue
        side = "above" if sign > 0 else "below"
        if bare is None or not math.isfinite(bare):
            said.append(f"{name} of the bare base was not measured")
        elif sign * (got - bare) < bound:
            said.append(
                f"{name} is {got:.4g}, and {bound:g} {side} the base's {bare:.4g} is required"
            )
    return said
