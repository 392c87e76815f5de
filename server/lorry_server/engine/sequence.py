"""A request on its way through the engine: its tokens, its KV blocks, and how far it has come."""

from __future__ import annotations

import enum
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from lorry_server.engine.request import GenerationRequest, RequestStats, TokenLogprobs


class SequenceState(enum.Enum):
    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(frozen=True, slots=True)
class VirtualPlaces:
    """What an adapter puts before every sequence of its own: so many virtual tokens."""

    count: int = 0
    injected: bool = False  # as keys and values, which no forward pass computes; else as embeddings


NO_VIRTUAL_PLACES = VirtualPlaces()


@dataclass(slots=True, eq=False)
class Sequence:
    """The scheduler and the block manager own every field; the model runner only reads.

    A sequence's tokens stand at places: its adapter's virtual tokens first, then `token_ids`.
    Invariant: keys and values of the first `num_computed_tokens` places are in the blocks of `block_table`.
    """

    request: GenerationRequest
    arrival: float  # seconds, monotonic
    token_ids: list[int]  # prompt, then output
    state: SequenceState = SequenceState.WAITING
    virtual: VirtualPlaces = NO_VIRTUAL_PLACES  # known once the adapter is at hand
    num_computed_tokens: int = 0
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(
        default_factory=list
    )  # of the full blocks whose content is known
    num_cached_tokens: int = 0  # at the first admission
    first_scheduled: float | None = None
    first_token: float | None = None
    overtaken: int = 0  # admissions past this one while it waited for a slot
    next_scored: int = field(init=False)  # index of the prompt's token whose score comes next
    next_pooled: int = field(init=False)  # index of the prompt's token that is pooled next
    pooled: list[float] = field(
        default_factory=list
    )  # [hidden]: the sum so far; or labels, in line

    def __post_init__(self) -> None:
        scores, pool_from = self.request.scores, self.request.pool_from
        self.next_scored = self.num_prompt_tokens if scores is None else scores.first
        self.next_pooled = self.num_prompt_tokens if pool_from is None else pool_from

    @property
    def adapter(self) -> str | None:
        return self.request.adapter

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_tokens(self) -> int:
        """How many places the sequence has, virtual ones included."""
        return self.virtual.count + len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def num_uninjected_tokens(self) -> int:
        """How many of the uncomputed ones are the adapter's own keys and values."""
        injected = self.virtual.count if self.virtual.injected else 0
        return max(0, injected - self.num_computed_tokens)

    def ids(self, first: int, end: int) -> list[int]:
        """What stands at the places `[first, end)`: token ids, and -1, -2, … for virtual tokens."""
        count = self.virtual.count
        if first >= count:
            return self.token_ids[first - count : end - count]
        virtual = [-1 - place for place in range(first, min(end, count))]
        return virtual + self.token_ids[: max(0, end - count)]

    @property
    def wants_more_of_prompt(self) -> bool:
        """Whether scores or states of the prompt's tokens are still to come."""
        return (
            self.next_scored < self.num_prompt_tokens or self.next_pooled < self.num_prompt_tokens
        )

    @property
    def num_skippable_tokens(self) -> int:
        """How many at the beginning need only their keys and values: of the others, something more is wanted.

        Of the last token the logits are, always; of a token before one that is scored too.
        """
        wanted = len(self.token_ids) - 1
        if self.next_scored < self.num_prompt_tokens:
            wanted = min(wanted, self.next_scored - 1)
        if self.next_pooled < self.num_prompt_tokens:
            wanted = min(wanted, self.next_pooled)
        return self.virtual.count + wanted

    @property
    def embedding(self) -> tuple[float, ...]:
        """[hidden]: the mean over what was pooled; or labels, of each token after the other. Nothing of nothing."""
        if self.request.pool_from is None:
            return ()
        if self.request.classifies:
            return tuple(self.pooled)
        count = self.num_prompt_tokens - self.request.pool_from
        return tuple(value / count for value in self.pooled)

    def note(self, scores: Items[TokenLogprobs], pooled: list[float] | None, at: range) -> None:
        """What a step brought of the prompt: it is not asked for again, whatever happens to the blocks."""
        self.next_scored += len(scores)
        if pooled is not None and self.request.of_each:
            self.pooled += pooled
            self.next_pooled = at.stop
        elif pooled is not None:
            before = self.pooled or [0.0] * len(pooled)
            self.pooled = [old + new for old, new in zip(before, pooled, strict=True)]
            self.next_pooled = at.stop

    def stats(self, now: float) -> RequestStats:
        started = self.first_scheduled if self.first_scheduled is not None else now
        first = self.first_token if self.first_token is not None else now
        return RequestStats(
            prompt_tokens=self.num_prompt_tokens,
            cached_prompt_tokens=max(0, self.num_cached_tokens - self.virtual.count),
            completion_tokens=self.num_output_tokens,
            queue_seconds=started - self.arrival,
            first_token_seconds=first - self.arrival,
            total_seconds=now - self.arrival,
        )
