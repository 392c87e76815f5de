"""The sections that say what is learnt, where that is more than to answer as the examples do."""

from __future__ import annotations

from pydantic import Field

from lorry_trainer.recipe.section import Section


class Preference(Section):
    """With `dpo`, `kto` and `orpo`: how hard preferences pull."""

    beta: float = Field(
        default=0.1,
        gt=0,
        description="DPO and KTO: how much a step away from the bare base costs. ORPO: the weight of the odds ratio.",
    )


class Reinforcement(Section):
    """With `grpo` and `rloo`: what is rewarded, and how far the adapter may go for it."""

    reward: str = Field(
        min_length=1,
        description="`exact_match`, `contains` or `number` (the last number said is the answer's): against the row's "
        "`answer`, which each row must then have. `FILE.py:FUNCTION`, called with prompt, answer said and the row's "
        "answer. Or the folder of an adapter that `objective: reward` trained. A relative path starts at the recipe's "
        "folder; an adapter's also where `lorry train` runs, as its `output` does.",
    )
    generations: int = Field(
        default=4,
        ge=2,
        description="Answers sampled for each prompt, to be set against each other.",
    )
    max_new_tokens: int = Field(default=64, ge=1, description="Longest answer in tokens.")
    temperature: float = Field(default=1.0, gt=0, le=10, description="Of the sampled answers.")
    kl_penalty: float = Field(
        default=0.04, gt=0, description="Cost of the KL divergence from the bare base, per token."
    )
    max_kl: float = Field(
        default=10.0,
        gt=0,
        description="Training ends where the mean KL divergence from the bare base, in nats per token, is beyond this.",
    )
