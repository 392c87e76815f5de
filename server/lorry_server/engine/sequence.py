"""A request on its way through the engine: its tokens, its KV blocks, and how far it has come."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from lorry_server.engine.request import GenerationRequest, RequestStats


class SequenceState(enum.Enum):
    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """The scheduler and the block manager own every field; the model runner only reads.

    Invariant: keys and values of `token_ids[:num_computed_tokens]` are in the blocks of `block_table`.
    """

    request: GenerationRequest
    arrival: float  # seconds, monotonic
    token_ids: list[int]  # prompt, then output
    state: SequenceState = SequenceState.WAITING
    num_computed_tokens: int = 0
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(
        default_factory=list
    )  # of the full blocks whose content is known
    num_cached_prompt_tokens: int = 0  # at the first admission
    first_scheduled: float | None = None
    first_token: float | None = None
    overtaken: int = 0  # admissions past this one while it waited for a slot

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
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    def stats(self, now: float) -> RequestStats:
        started = self.first_scheduled if self.first_scheduled is not None else now
        first = self.first_token if self.first_token is not None else now
        return RequestStats(
            prompt_tokens=self.num_prompt_tokens,
            cached_prompt_tokens=self.num_cached_prompt_tokens,
            completion_tokens=self.num_output_tokens,
            queue_seconds=started - self.arrival,
            first_token_seconds=first - self.arrival,
            total_seconds=now - self.arrival,
        )
