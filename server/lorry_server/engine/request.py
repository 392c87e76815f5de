"""What goes into the engine and what comes out of it: token ids, digests and numbers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. Values are taken as valid: the services check them."""

    max_tokens: int
    temperature: float = 0.0  # 0 chooses the likeliest token
    top_k: int = 0  # 0 means all
    top_p: float = 1.0
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()  # end-of-sequence tokens included, unless ignored
    top_logprobs: int | None = None  # None: no log-probabilities; 0: the chosen token's alone


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to continue, with the adapter that acts on it."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    adapter: str | None = None  # the version's digest; None is the bare base
    deadline: float | None = None  # time.monotonic() seconds; later than that nobody waits


class FinishReason(enum.Enum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities at one position, before temperature."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, log-probability), likeliest first


@dataclass(frozen=True, slots=True)
class RequestStats:
    """What a finished request used. Times are seconds since its arrival."""

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    queue_seconds: float
    first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What a step brought for one request.

    The last output of a request has `finish_reason` and `stats`, or `error`; nothing follows it. The first one
    that has a token has `stats` too. The stop token that ends a sequence is among `token_ids`.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stats: RequestStats | None = None
    error: Exception | None = field(default=None)

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None or self.error is not None
