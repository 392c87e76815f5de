"""What is returned of a prompt that nothing is generated from: scores of continuations, and embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorry_client.results.generation import TokenLogprobs, Usage

if TYPE_CHECKING:
    from lorry.inference.v1 import inference_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How likely a continuation is.

    Attributes:
        logprob: ln p(continuation | prompt), the sum over its tokens.
        greedy: whether each of its tokens is the likeliest in its place.
        tokens: each token's log-probability, given all before it, and the likeliest in its place.
    """

    logprob: float
    greedy: bool
    tokens: tuple[TokenLogprobs, ...]

    @property
    def mean_logprob(self) -> float:
        """By token, to compare continuations of different lengths."""
        return self.logprob / len(self.tokens)

    @classmethod
    def read(cls, message: pb.ContinuationScore) -> ContinuationScore:
        return cls(
            message.logprob,
            message.greedy,
            tuple(TokenLogprobs.read(one) for one in message.tokens),
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """One for each continuation, in their order; and who acted, as in `Completion`."""

    scores: tuple[ContinuationScore, ...]
    adapter: str | None
    adapter_digest: str | None
    usage: Usage

    @property
    def best(self) -> int:
        """The index of the likeliest continuation."""
        return max(range(len(self.scores)), key=lambda index: self.scores[index].logprob)

    @classmethod
    def read(cls, message: pb.ScoreResponse) -> Scores:
        return cls(
            tuple(ContinuationScore.read(one) for one in message.scores),
            message.adapter or None,
            message.adapter_digest or None,
            Usage.read(message.usage),
        )


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label of an adapter's head by its place: what the head says, and the softmax over all.

    `name` is that of the adapter's `labels.json`; None where it has none.
    """

    index: int
    logit: float
    probability: float
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """A prompt's labels, in the head's order; and who acted, as in `Completion`."""

    labels: tuple[LabelScore, ...]
    adapter: str | None
    adapter_digest: str | None
    usage: Usage

    @property
    def best(self) -> int:
        """The index of the likeliest label."""
        return max(self.labels, key=lambda label: label.logit).index

    @classmethod
    def read(cls, message: pb.ClassifyResponse) -> Classification:
        return cls(
            tuple(
                LabelScore(one.index, one.logit, one.probability, one.name or None)
                for one in message.labels
            ),
            message.adapter or None,
            message.adapter_digest or None,
            Usage.read(message.usage),
        )


@dataclass(frozen=True, slots=True)
class TokenLabels:
    """A token of a text, where it stands, and what a head says of it: a logit for each label."""

    token_id: int
    in_pair: bool  # whether it stands in the second text
    start: int  # characters [start, end); none for a special token
    end: int
    logits: tuple[float, ...]

    @property
    def best(self) -> int:
        """The index of the likeliest label."""
        return max(range(len(self.logits)), key=self.logits.__getitem__)


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """All tokens of a text in their order; the labels' names, none where the adapter has none; and who acted, as in
    `Completion`."""

    tokens: tuple[TokenLabels, ...]
    labels: tuple[str, ...]
    adapter: str | None
    adapter_digest: str | None
    usage: Usage

    @classmethod
    def read(cls, message: pb.ClassifyTokensResponse) -> TokenClassification:
        return cls(
            tuple(
                TokenLabels(one.token_id, one.in_pair, one.start, one.end, tuple(one.logits))
                for one in message.tokens
            ),
            tuple(message.labels),
            message.adapter or None,
            message.adapter_digest or None,
            Usage.read(message.usage),
        )


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt as a vector, as long as the base's hidden size; and who acted, as in `Completion`."""

    vector: tuple[float, ...]
    adapter: str | None
    adapter_digest: str | None
    usage: Usage

    @classmethod
    def read(cls, message: pb.EmbedResponse) -> Embedding:
        return cls(
            tuple(message.embedding),
            message.adapter or None,
            message.adapter_digest or None,
            Usage.read(message.usage),
        )
