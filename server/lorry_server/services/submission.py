"""The sequences that one RPC has in the engine: submitted together, read from one queue, and none stays behind."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lorry_registry.errors import DeadlineExceeded, LorryError
from lorry_server.adapters import ResolvedAdapter
from lorry_server.engine.request import GenerationRequest, RequestOutput, RequestStats
from lorry_server.engine.stats import EngineStats
from lorry_server.metrics.requests import Outcome, RequestMetrics
from lorry_server.services.outputs import Delivery, OutputDispatcher

_LARGE = 100_000  # tokens taken from the queue at once, where nothing streams


class GeneratingEngine(Protocol):
    """What an RPC needs of the engine."""

    def submit(self, *requests: GenerationRequest) -> None: ...

    def cancel(self, request_id: str) -> None: ...

    def export(self, digest: str, folder: Path) -> Future[None]: ...

    def stats(self) -> EngineStats: ...


@dataclass(frozen=True, slots=True)
class House:
    """What every RPC finds here, and which are under way."""

    engine: GeneratingEngine
    dispatcher: OutputDispatcher
    metrics: RequestMetrics
    submissions: set[Submission] = field(default_factory=set)  # until their RPC ends

    def references_in_flight(self) -> set[str]:
        """The versions that act in some RPC now, as `namespace/name@sha256:…`."""
        acting = [submission.adapter for submission in self.submissions]
        return {
            reference
            for adapter in acting
            if adapter is not None
            for reference in ([term.reference for term in adapter.terms] or [adapter.reference])
        }

    def end(self, reference: str, error: LorryError) -> None:
        """Ends the RPCs in which a version acts, named by `namespace/name@sha256:…`, with an error."""
        for submission in self.submissions:
            if submission.adapter is not None and submission.adapter.consists_of(reference):
                submission.stop(error)


@dataclass(frozen=True, slots=True)
class Asked:
    """By whom, and until when somebody waits."""

    adapter: ResolvedAdapter | None
    arrival: float  # time.monotonic() seconds
    deadline: float | None  # time.monotonic() seconds
    merged: bool = False  # begins once its adapter is merged

    @property
    def digest(self) -> str | None:
        return None if self.adapter is None else self.adapter.digest


def request_ids(count: int) -> list[str]:
    """Fresh ones, all beginning alike."""
    name = uuid.uuid4().hex
    return [f"{name}-{index}" for index in range(count)]


class Submission:
    """Submitted when it is made. `close` must follow, however the RPC ends: it frees what the engine still holds."""

    def __init__(self, requests: Sequence[GenerationRequest], asked: Asked, house: House) -> None:
        self.stats: RequestStats | None = None  # the engine's of the first sequence that tells
        self.outcome: Outcome | None = None  # None while it runs
        self.last_token: float | None = None  # time.monotonic() seconds
        self._asked = asked
        self._house = house
        self._ids = tuple(request.request_id for request in requests)
        self._open = set(self._ids)
        self._error: Exception | None = None  # what ended a sequence, until it is raised
        self._cached: dict[str, int] = {}  # prompt tokens found in the cache, by request id
        self._closed = False
        self._queue = house.dispatcher.open(*self._ids)
        try:
            house.engine.submit(*requests)
        except BaseException:
            house.dispatcher.close(*self._ids)
            raise
        house.submissions.add(self)

    @property
    def adapter(self) -> ResolvedAdapter | None:
        """What acts beside the base."""
        return self._asked.adapter

    @property
    def running(self) -> bool:
        """Whether something is still to come."""
        return bool(self._open) or self._error is not None

    async def deliveries(self, most: int) -> list[Delivery]:
        """What has come since the last call, at least one delivery, up to about `most` tokens.

        Raises the error that ended a sequence, once what came before it is taken: it ends them all.
        """
        taken: list[Delivery] = []
        size = 0
        while self._error is None and (not taken or (not self._queue.empty() and size < most)):
            delivery = await self._queue.get()
            output = delivery.output
            if output.request_id not in self._open:
                continue  # ended here while its outputs were on their way
            if output.error is not None:
                self._fail(output.error)
                break
            taken.append(delivery)
            size += len(output.token_ids) + len(output.prompt_logprobs)
            if output.stats is not None:
                self.stats = output.stats
                self._cached[output.request_id] = output.stats.cached_prompt_tokens
        if not taken and self._error is not None:
            error, self._error = self._error, None
            raise error
        return taken

    async def whole(self) -> list[list[RequestOutput]]:
        """All outputs of each sequence, in the requests' order, once all have ended: for what generates nothing."""
        outputs: dict[str, list[RequestOutput]] = {request_id: [] for request_id in self._ids}
        while self.running:
            for delivery in await self.deliveries(_LARGE):
                output = delivery.output
                outputs[output.request_id].append(output)
                if output.finished:
                    self.done(output.request_id)
        self.outcome = "answered"
        return list(outputs.values())

    @property
    def cached_prompt_tokens(self) -> int:
        """Of all sequences together, as far as they have told."""
        return sum(self._cached.values())

    def done(self, request_id: str) -> None:
        """The engine has said its last word about a sequence."""
        self._open.discard(request_id)
        self._house.dispatcher.finished(request_id)

    def end(self, request_id: str) -> None:
        """No more is wanted of a sequence."""
        self._house.engine.cancel(request_id)
        self.done(request_id)

    def stop(self, error: LorryError) -> None:
        """Ends them all with an error, after what came before; does nothing where the engine has said everything."""
        for request_id in self._ids:
            if self._house.dispatcher.fail(request_id, error):
                break  # one that fails ends the others

    def refuse(self) -> None:
        """No more is wanted of any, and nobody gets what came."""
        self._cancel()
        self.outcome = "refused"

    def close(self) -> None:
        """Frees the sequences wherever they are. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._house.submissions.discard(self)
        if self.outcome is None:
            deadline = self._asked.deadline
            late = deadline is not None and time.monotonic() >= deadline
            self.outcome = "deadline" if late else "cancelled"
        self._cancel()
        self._house.dispatcher.close(*self._ids)
        self._house.metrics.ended(
            self.outcome,
            adapter=self._asked.digest,
            seconds=(self.last_token or time.monotonic()) - self._asked.arrival,
            queue_seconds=None if self.stats is None else self.stats.queue_seconds,
        )

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.outcome = "deadline" if isinstance(error, DeadlineExceeded) else "error"
        self._cancel()

    def _cancel(self) -> None:
        for request_id in list(self._open):
            self.end(request_id)
