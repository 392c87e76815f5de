"""The sections that say how the result is judged, and when it is good enough."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lorry_trainer.recipe.section import Section

Metric = Literal[
    "exact_match",
    "token_f1",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "rouge_l",
    "bleu",
    "chrf",
    "loss",
    "perplexity",
    "span_f1",
    "tag_accuracy",
    "preference_accuracy",
    "reward_accuracy",
    "preference_auc",
    "reward",
    "win_rate",
]
UNBOUNDED = ("loss", "perplexity", "reward")  # all other figures are shares, from 0 to 1


class Evaluation(Section):
    """The score on the test rows, for the bare base and then for the adapter, from the same prompts."""

    metric: Metric | None = Field(
        default=None,
        description="The figure that is shown first. `accuracy`, `precision`, `recall` and `f1` (macro) where the "
        "answers are labels; `rouge_l`, `bleu` and `chrf` where they are not. Left out: `exact_match` for `sft` and "
        "`extraction`, `loss` for `sft` on plain text, `accuracy` for `classification`, `span_f1` for `tokens`, "
        "`preference_auc` for `kto`, `reward` for `grpo` and `rloo`, `preference_accuracy` for the others.",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest answer in tokens. Left out: a quarter more than the longest expected answer.",
    )
    reward: str | None = Field(
        default=None,
        min_length=1,
        description="What the answers earn, named as `reinforcement.reward` is, whatever the objective: `reward` is "
        "its mean, `win_rate` how often the adapter's answer earns more than the bare base's, ties counted as half. "
        "Left out: `reinforcement.reward` for `grpo` and `rloo`, none for the others.",
    )
    max_rows: int = Field(
        default=200, ge=1, description="Score at most so many test rows, a seeded choice."
    )
    batch_size: int = Field(default=32, ge=1, description="Prompts answered at a time.")
    shots: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Score the bare base a second time with so many training rows shown before each question.",
    )
    general: str | None = Field(
        default=None,
        min_length=1,
        description="File of general text (.txt, or rows with a `text`), whose perplexity is measured before and after:"
        " what the adapter forgets.",
    )


class Requirement(Section):
    """What a figure must come to on the test rows, for the version to be given an alias."""

    min: float | None = Field(default=None, description="At least.")
    max: float | None = Field(default=None, description="At most.")
    above_base: float | None = Field(
        default=None, description="At least so much above the bare base's."
    )
    below_base: float | None = Field(
        default=None, description="At least so much below the bare base's."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self == Requirement.model_construct():
            raise ValueError("give at least one of min, max, above_base and below_base")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(
                f"min {self.min:g} is above max {self.max:g}, and no figure is both; exchange them"
            )
        return self
