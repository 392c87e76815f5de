"""The section that says how the result is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorry_trainer.recipe.section import Section


class Evaluation(Section):
    """The score on the test rows, for the bare base and then for the adapter, from the same prompts."""

    metric: Literal["exact_match", "token_f1"] = Field(
        default="exact_match", description="The figure that is shown first."
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest answer in tokens. Left out: a quarter more than the longest expected answer.",
    )
    max_rows: int = Field(
        default=200, ge=1, description="Score at most so many test rows, a seeded choice."
    )
    batch_size: int = Field(default=32, ge=1, description="Prompts answered at a time.")
