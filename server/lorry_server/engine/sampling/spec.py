"""What is known of one row of logits when a token is chosen from it."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from lorry_server.engine.request import SamplingParams
from lorry_server.engine.sampling.constraint import TokenConstraint


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """How to choose one token."""

    params: SamplingParams
    position: int  # of the token that is to be chosen
    token_ids: Items[int] = ()  # what the sequence has so far: prompt, then output
    num_prompt_tokens: int = 0
    constraint: TokenConstraint | None = None

    @property
    def output(self) -> Items[int]:
        return self.token_ids[self.num_prompt_tokens :]
