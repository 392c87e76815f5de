"""The section that says which keys a search may set, and to what."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from lorry_trainer.recipe.section import Section


class Range(Section):
    """A number between two bounds."""

    min: float = Field(description="The least.")
    max: float = Field(description="The most.")
    log: bool = Field(default=False, description="Even in orders of magnitude.")
    whole: bool = Field(default=False, description="Whole numbers only.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min >= self.max or (self.log and self.min <= 0):
            raise ValueError("min must be below max, and above 0 with `log`")
        if self.whole and math.ceil(self.min) > math.floor(self.max):
            raise ValueError(f"no whole number lies between {self.min:g} and {self.max:g}")
        return self


class Choice(Section):
    """One of a few values."""

    choices: tuple[str | int | float | bool, ...] = Field(min_length=1, description="The values.")


# Keys that decide what the validation loss is of, or what one is: trials with other values cannot be compared.
_MEASURED_BY = (
    "base",
    "objective",
    "quantization",
    "data",
    "training.seed",
    "preference.beta",
    "evaluation",
)
_SAME_ANSWERS = ("data.augment", "data.deduplicate", "data.template", "data.system")


class Search(Section):
    """What `lorry search` tries: each trial is judged by its best validation loss, and poor ones are given up early."""

    trials: int = Field(default=20, ge=1, description="How many runs in all.")
    values: dict[str, Range | Choice] = Field(
        min_length=1,
        description="Key → `min`, `max` (`log`, `whole`), or `choices`: `training.learning_rate: {min: 1e-4, max: "
        "1e-2, log: true}`.",
    )

    @model_validator(mode="after")
    def _trials_can_be_compared(self) -> Self:
        for key in self.values:
            parts = key.split(".")
            heads = {".".join(parts[: n + 1]) for n in range(len(parts))}
            if heads & set(_MEASURED_BY) and not heads & set(_SAME_ANSWERS):
                raise ValueError(
                    f"trials are compared by their validation loss, and `{key}` decides what that is measured on or "
                    "in; search for each of its values apart"
                )
        return self
