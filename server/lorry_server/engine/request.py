"""What goes into the engine and what comes out of it: token ids, digests and numbers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from lorry_server.engine.sampling.constraint import TokenConstraint


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. Values are taken as valid: the services check them."""

    max_tokens: int  # 0: the prompt alone is looked at, for its scores or its embedding
    temperature: float = 0.0  # 0 chooses the likeliest token
    top_k: int = 0  # 0 means all
    top_p: float = 1.0
    min_p: float = 0.0  # of the likeliest token's probability
    repetition_penalty: float = 1.0  # on every token of the prompt and the output
    presence_penalty: float = 0.0  # on every token of the output
    frequency_penalty: float = 0.0  # on every token of the output, each time that it occurs
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of ids that must not occur
    min_tokens: int = 0  # no stop token before so many
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()  # end-of-sequence tokens included, unless ignored
    top_logprobs: int | None = None  # None: no log-probabilities; 0: the chosen token's alone

    adjusts: bool = field(init=False)  # whether logits are changed before a token is chosen

    def __post_init__(self) -> None:
        adjusts = bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
            or self.bad_words
            or self.min_tokens
        )
        object.__setattr__(self, "adjusts", adjusts)


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of tokens of the prompt, each given those before it."""

    first: int  # the index of the first such token, at least 1
    top: int = 0  # how many of the likeliest are told beside each


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to continue, with the adapter that acts on it."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    adapter: str | None = None  # the version's digest; None is the bare base
    deadline: float | None = None  # time.monotonic() seconds; later than that nobody waits
    follows: str | None = None  # waits until this request's prompt is computed, to share its blocks
    scores: PromptScores | None = None
    pool_from: int | None = None  # the mean final hidden state of the prompt from this index on
    classifies: bool = False  # what the adapter's head says of that, instead of the state itself
    of_each: bool = False  # what it says of each of those tokens by itself
    constraint: TokenConstraint | None = None  # this request's own: it moves with the tokens
    merged: bool = False  # begins once its adapter is merged
    token_types: tuple[int, ...] = ()  # which text each token is of, where an encoder is told


class FinishReason(enum.Enum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities at one position, as the model gives them: before temperature, penalties and bans."""

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
    that has a token has `stats` too. The stop token that ends a sequence is among `token_ids`. The scores of a prompt
    come in the order of its tokens, before the first generated token.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stats: RequestStats | None = None
    error: Exception | None = field(default=None)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    embedding: tuple[float, ...] = ()
    """[hidden], or [labels] where it classifies, or [tokens × labels] of each token; on the last output."""

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None or self.error is not None
