"""What a step is to do, as the scheduler decides it, and what it brings."""

from __future__ import annotations

from dataclasses import dataclass, field

from lorry_registry.errors import LorryError
from lorry_server.engine.request import RequestOutput, TokenLogprobs
from lorry_server.engine.residency import SlotLoad
from lorry_server.engine.sequence import Sequence

_NONE = range(0)


@dataclass(slots=True)
class Chunk:
    """The next `num_tokens` uncomputed tokens of a sequence, after `num_injected` that the adapter has keys for.

    What is derived stays as it was when the step was decided. Tokens are counted as in `Sequence.token_ids`.
    """

    sequence: Sequence
    num_tokens: int
    slot: int | None  # of the adapter; None is the bare base
    num_injected: int = 0
    end: int = field(init=False)  # how many places of the sequence are computed after the step
    completes: bool = field(init=False)  # whether it reaches the sequence's last token
    samples: bool = field(init=False)  # whether a new one is chosen then
    logits_at: range = field(init=False)  # the tokens before each to be scored, or chosen
    pooled_at: range = field(init=False)  # the tokens whose final hidden states are wanted

    def __post_init__(self) -> None:
        sequence = self.sequence
        self.end = sequence.num_computed_tokens + self.num_injected + self.num_tokens
        self.completes = self.end == sequence.num_tokens
        self.samples = self.completes and sequence.request.sampling.max_tokens > 0
        end = self.end - sequence.virtual.count  # virtual tokens are before 0
        scored = self.pooled_at = _NONE
        if sequence.wants_more_of_prompt:
            first, prompt = end - self.num_tokens, sequence.num_prompt_tokens
            scored = range(max(first, sequence.next_scored - 1), min(end, prompt - 1))
            self.pooled_at = range(max(first, sequence.next_pooled), min(end, prompt))
        if self.samples:
            self.logits_at = range(scored.start if scored else end - 1, end)
        else:
            self.logits_at = scored

    @property
    def yields(self) -> bool:
        """Whether the step brings more than keys and values."""
        return bool(self.logits_at or self.pooled_at)


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a step brought for a chunk: a chosen token, and what was wanted of the prompt's."""

    token_id: int | None = None  # None: the chunk does not sample
    logprobs: TokenLogprobs | None = None
    scores: tuple[TokenLogprobs, ...] = ()  # of the prompt's tokens after each of `logits_at`
    pooled: list[float] | None = None  # [hidden]: the sum over `pooled_at`; or the labels there
    error: LorryError | None = None  # no token could be chosen


@dataclass(slots=True)
class StepPlan:
    """What a step does. `chunks` run; the loader takes `fetches` and `loads`; `outputs` go out as they are."""

    chunks: list[Chunk] = field(default_factory=list)
    fetches: list[str] = field(default_factory=list)
    loads: list[SlotLoad] = field(default_factory=list)
    outputs: list[RequestOutput] = field(default_factory=list)
