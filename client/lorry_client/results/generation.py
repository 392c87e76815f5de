"""What generation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lorry_client.errors import Internal
from lorry_client.results.times import seconds

if TYPE_CHECKING:
    from lorry.inference.v1 import inference_service_pb2 as pb

FinishReason = Literal["stop", "length"]

# By the number of pb.FinishReason; so far nothing else is ever sent.
_FINISH_REASONS: dict[int, FinishReason] = {1: "stop", 2: "length"}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and ln p(token), before temperature."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one position: the chosen token's, and the likeliest tokens', likeliest first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]

    @classmethod
    def read(cls, message: pb.TokenLogprobs) -> TokenLogprobs:
        return cls(
            TokenLogprob(message.chosen.token_id, message.chosen.logprob),
            tuple(TokenLogprob(one.token_id, one.logprob) for one in message.top),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used; the cached ones are part of the prompt's."""

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int

    @classmethod
    def read(cls, message: pb.Usage) -> Usage:
        return cls(message.prompt_tokens, message.cached_prompt_tokens, message.completion_tokens)


@dataclass(frozen=True, slots=True)
class Timings:
    """Time used as the server saw it, each from the request's arrival."""

    queue_seconds: float
    time_to_first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Term:
    """An adapter of a composition, as a reference that always means the same bytes, and its digest."""

    adapter: str
    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation.

    Attributes:
        text: the whole text.
        token_ids: every generated token.
        logprobs: one entry per token, where they were asked for.
        prompt_logprobs: one entry per token of the prompt after the first, where they were asked for.
        mean_logprob: of the answer's tokens, where log-probabilities or `best_of` were asked for.
        alternatives: the other answers, where `n` is more than 1.
        finish_reason: `stop` or `length`.
        stop: the stop string that ended it, where one did.
        adapter: the adapter that acted, as a reference that always means the same bytes; None for the bare base. Of a
            composition: its terms so written, which can be asked for again.
        adapter_digest: its digest; None for the bare base.
        terms: of the composition that acted.
        warnings: what speaks against the use of what acted: a sentence for each version that is deprecated.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    adapter: str | None
    adapter_digest: str | None
    usage: Usage
    timings: Timings
    stop: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    terms: tuple[Term, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    mean_logprob: float | None = None
    alternatives: tuple[Completion, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is new in a stream, of the answer with this index; an answer's last one carries its completion."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    completion: Completion | None = None
    index: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(slots=True)
class Transcripts:
    """Puts a stream's messages together, each answer's its own: take each one in turn and pass its chunk on."""

    answers: dict[int, Transcript] = field(default_factory=dict)

    def take(self, message: pb.GenerateResponse) -> Chunk:
        return self.answers.setdefault(message.index, Transcript()).take(message)


@dataclass(slots=True)
class Transcript:
    """Puts the messages of one answer together."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    completion: Completion | None = None

    def take(self, message: pb.GenerateResponse) -> Chunk:
        """Adds a message and returns it as a chunk."""
        logprobs = tuple(TokenLogprobs.read(one) for one in message.logprobs)
        prompt_logprobs = tuple(TokenLogprobs.read(one) for one in message.prompt_logprobs)
        self.prompt_logprobs.extend(prompt_logprobs)
        self.text.append(message.text)
        self.token_ids.extend(message.token_ids)
        self.logprobs.extend(logprobs)
        if message.HasField("completion"):
            self.completion = self._complete(message.completion)
        return Chunk(
            message.text,
            tuple(message.token_ids),
            logprobs,
            self.completion,
            message.index,
            prompt_logprobs,
        )

    def _complete(self, end: pb.Completion) -> Completion:
        reason = _FINISH_REASONS.get(end.finish_reason)
        if reason is None:
            raise Internal(
                f"The server sent the unknown finish reason {end.finish_reason}; this client may be too old.",
                reason="UNKNOWN_FINISH_REASON",
            )
        return Completion(
            text="".join(self.text),
            token_ids=tuple(self.token_ids),
            finish_reason=reason,
            adapter=end.adapter or None,
            adapter_digest=end.adapter_digest or None,
            usage=Usage.read(end.usage),
            timings=Timings(
                seconds(end.timings.queue),
                seconds(end.timings.time_to_first_token),
                seconds(end.timings.total),
            ),
            stop=end.stop or None,
            logprobs=tuple(self.logprobs),
            warnings=tuple(end.warnings),
            terms=tuple(Term(one.adapter, one.digest, one.weight) for one in end.terms),
            prompt_logprobs=tuple(self.prompt_logprobs),
            mean_logprob=end.mean_logprob if end.HasField("mean_logprob") else None,
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt's token ids, the text they stand for, and how many the context holds."""

    token_ids: tuple[int, ...]
    text: str
    context_length: int

    @classmethod
    def read(cls, message: pb.TokenizeResponse) -> Tokens:
        return cls(tuple(message.token_ids), message.text, message.context_length)


@dataclass(frozen=True, slots=True)
class Model:
    """Something that a request may name; an empty reference is the bare base."""

    reference: str
    digest: str
    display_name: str
    resident: bool
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, message: pb.Model) -> Model:
        return cls(
            message.reference,
            message.digest,
            message.display_name,
            message.resident,
            tuple(message.warnings),
        )
