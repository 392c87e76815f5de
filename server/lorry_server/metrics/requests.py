"""What happens to requests, counted as it happens."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass, field
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

# `answered` are those that generate nothing: scores and embeddings.
Outcome = Literal["stop", "length", "answered", "cancelled", "deadline", "refused", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)
_WHOLE_REQUEST = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_MAX_DIGESTS = 10_000  # far above any number of slots


@dataclass(slots=True)
class AdapterTallies:
    """Counts by digest, for the series of the adapters that are resident. They reset where an adapter leaves."""

    requests: Tally[str] = field(default_factory=Tally)
    prompt_tokens: Tally[str] = field(default_factory=Tally)
    generation_tokens: Tally[str] = field(default_factory=Tally)

    def add(self, tally: Tally[str], digest: str, count: int) -> None:
        """Where nobody scrapes, nobody calls `keep` either: the digest that is here longest goes then."""
        if digest not in tally and len(tally) >= _MAX_DIGESTS:
            del tally[next(iter(tally))]
        tally[digest] += count

    def keep(self, digests: set[str]) -> None:
        """Forgets all others."""
        for tally in (self.requests, self.prompt_tokens, self.generation_tokens):
            for digest in tally.keys() - digests:
                del tally[digest]


class RequestMetrics:
    """The services call these, on the event loop. `adapter` is a digest; None is the bare base."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tallies = AdapterTallies()
        self._requests = Counter(
            "lorry_requests",
            "Requests to the engine by how they ended.",
            ["outcome"],
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._requests.labels(
                outcome
            )  # a series that starts at 0 has a rate from its first event on
        self._prompt_tokens = Counter(
            "lorry_prompt_tokens",
            "Prompt tokens of requests that got a first token.",
            registry=registry,
        )
        self._generation_tokens = Counter(
            "lorry_generation_tokens", "Tokens generated.", registry=registry
        )
        self._first_token_seconds = Histogram(
            "lorry_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_FIRST_TOKEN,
            registry=registry,
        )
        self._inter_token_seconds = Histogram(
            "lorry_inter_token_latency_seconds",
            "From one token of a request to its next.",
            buckets=_BETWEEN_TOKENS,
            registry=registry,
        )
        self._duration_seconds = Histogram(
            "lorry_request_duration_seconds",
            "From arrival to the last token, of requests that completed.",
            buckets=_WHOLE_REQUEST,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "lorry_request_queue_seconds",
            "From arrival to the first step, waiting for the adapter included.",
            buckets=_FIRST_TOKEN,
            registry=registry,
        )

    def turned_away(self, outcome: Outcome) -> None:
        """A request ended before the engine had it."""
        self._requests.labels(outcome).inc()

    def first_token(self, *, adapter: str | None, seconds: float, prompt_tokens: int) -> None:
        self._first_token_seconds.observe(seconds)
        self._prompt_tokens.inc(prompt_tokens)
        if adapter is not None:
            self.tallies.add(self.tallies.prompt_tokens, adapter, prompt_tokens)

    def token(self, *, adapter: str | None, gap_seconds: float | None) -> None:
        """A token of a request, and how long after the one before; None for its first."""
        self._generation_tokens.inc()
        if adapter is not None:
            self.tallies.add(self.tallies.generation_tokens, adapter, 1)
        if gap_seconds is not None:
            self._inter_token_seconds.observe(gap_seconds)

    def ended(
        self, outcome: Outcome, *, adapter: str | None, seconds: float, queue_seconds: float | None
    ) -> None:
        """A request that the engine had is over."""
        self._requests.labels(outcome).inc()
        if adapter is not None:
            self.tallies.add(self.tallies.requests, adapter, 1)
        if outcome in ("stop", "length", "answered"):
            self._duration_seconds.observe(seconds)
        if queue_seconds is not None:
            self._queue_seconds.observe(queue_seconds)
