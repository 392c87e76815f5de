"""One request on its way through the engine: ids come back, responses go out, and nothing stays behind."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import DeadlineExceeded, ResourceExhausted
from lorry_server.adapters import ResolvedAdapter
from lorry_server.engine.request import (
    FinishReason,
    GenerationRequest,
    RequestStats,
    TokenLogprobs,
)
from lorry_server.engine.stats import EngineStats
from lorry_server.metrics.requests import Outcome, RequestMetrics
from lorry_server.services.detokenizer import TextStream
from lorry_server.services.outputs import Delivery, OutputDispatcher
from lorry_server.services.text import TextCodec
from lorry_server.services.validation import Decoding

_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_LARGEST_RESPONSE = 1000  # outputs: even with 20 log-probabilities each, well within a message
_OUTCOMES: dict[int, Outcome] = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


class GeneratingEngine(Protocol):
    """What a generation needs of the engine."""

    def submit(self, request: GenerationRequest) -> None: ...

    def cancel(self, request_id: str) -> None: ...

    def stats(self) -> EngineStats: ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that has passed every check."""

    prompt_token_ids: tuple[int, ...]
    decoding: Decoding
    adapter: ResolvedAdapter | None
    arrival: float  # time.monotonic() seconds
    deadline: float | None  # time.monotonic() seconds

    @property
    def digest(self) -> str | None:
        return None if self.adapter is None else self.adapter.digest


class Generation:
    """Submitted when it is made. `close` must follow, however it ends: it frees what the engine still holds."""

    def __init__(
        self,
        accepted: Accepted,
        *,
        codec: TextCodec | None,
        engine: GeneratingEngine,
        dispatcher: OutputDispatcher,
        metrics: RequestMetrics,
    ) -> None:
        self._accepted = accepted
        self._engine = engine
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._request_id = uuid.uuid4().hex
        self._text = TextStream(codec, accepted.decoding.stops)
        self._num_tokens = 0
        self._first_token: float | None = None  # time.monotonic() seconds
        self._last_token: float | None = None
        self._stats: RequestStats | None = None  # the engine's, as soon as it tells
        self._outcome: Outcome | None = None  # None while it runs
        self._closed = False
        self._queue = dispatcher.open(self._request_id)
        try:
            engine.submit(
                GenerationRequest(
                    request_id=self._request_id,
                    prompt_token_ids=accepted.prompt_token_ids,
                    sampling=accepted.decoding.sampling,
                    adapter=accepted.digest,
                    deadline=accepted.deadline,
                )
            )
        except BaseException:
            dispatcher.close(self._request_id)
            raise

    async def responses(self) -> AsyncIterator[pb.GenerateResponse]:
        """Each with all that is new; the last one has the completion.

        A client that reads slowly gets fewer and larger ones.
        """
        while self._outcome is None:
            deliveries = [await self._queue.get()]
            while not self._queue.empty() and len(deliveries) < _LARGEST_RESPONSE:
                deliveries.append(self._queue.get_nowait())
            error = deliveries[-1].output.error
            response = self._response(deliveries)
            if response.token_ids or response.HasField("completion"):
                yield response
            if error is not None and self._outcome is None:
                self._outcome = "deadline" if isinstance(error, DeadlineExceeded) else "error"
                raise error

    async def whole(self, max_bytes: int) -> pb.GenerateResponse:
        """All responses as one. Raises ResourceExhausted where they are more than one message may have."""
        answer = pb.GenerateResponse()
        texts: list[str] = []
        size = 0
        async for response in self.responses():
            size += response.ByteSize()
            if size > max_bytes:
                self._engine.cancel(self._request_id)
                self._outcome = "refused"  # even where the engine is done: nobody gets it
                raise ResourceExhausted(
                    f"The answer is larger than the {max_bytes} bytes that one message may have; stream it with "
                    "Generate, or ask for fewer tokens or log-probabilities.",
                    reason="RESPONSE_TOO_LARGE",
                    max_bytes=max_bytes,
                )
            texts.append(response.text)
            answer.token_ids.extend(response.token_ids)
            answer.logprobs.extend(response.logprobs)
            if response.HasField("completion"):
                answer.completion.CopyFrom(response.completion)
        answer.text = "".join(texts)
        return answer

    def close(self) -> None:
        """Frees the request wherever it is. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._dispatcher.close(self._request_id)
        if self._outcome is None:
            self._engine.cancel(self._request_id)
            late = (
                self._accepted.deadline is not None and time.monotonic() >= self._accepted.deadline
            )
            self._outcome = "deadline" if late else "cancelled"
        self._metrics.ended(
            self._outcome,
            adapter=self._accepted.digest,
            seconds=(self._last_token or time.monotonic()) - self._accepted.arrival,
            queue_seconds=None if self._stats is None else self._stats.queue_seconds,
        )

    def _response(self, deliveries: Sequence[Delivery]) -> pb.GenerateResponse:
        response = pb.GenerateResponse()
        for delivery in deliveries:
            output = delivery.output
            self._stats = output.stats or self._stats
            logprobs = iter(output.logprobs)
            for index, token_id in enumerate(output.token_ids):
                response.token_ids.append(token_id)
                self._count(delivery.moment)
                if (at_token := next(logprobs, None)) is not None:
                    response.logprobs.append(_logprobs(token_id, at_token))
                is_last = index == len(output.token_ids) - 1
                if output.finish_reason is FinishReason.STOP and is_last:
                    break  # a stop token ends the text, it is no part of it
                text, stop = self._text.push(token_id)
                response.text += text
                if stop is not None:
                    return self._complete(response, pb.FINISH_REASON_STOP, stop)
            if output.finish_reason is not None:
                text, stop = self._text.finish()
                response.text += text
                reason = (
                    _FINISH_REASONS[output.finish_reason] if stop is None else pb.FINISH_REASON_STOP
                )
                return self._complete(response, reason, stop, engine_is_done=True)
        return response

    def _complete(
        self,
        response: pb.GenerateResponse,
        reason: pb.FinishReason,
        stop: str | None,
        *,
        engine_is_done: bool = False,
    ) -> pb.GenerateResponse:
        if not engine_is_done:
            self._engine.cancel(self._request_id)
        self._outcome = _OUTCOMES[reason]
        ended = self._last_token or time.monotonic()
        completion = response.completion
        completion.finish_reason = reason
        completion.stop = stop or ""
        completion.usage.prompt_tokens = len(self._accepted.prompt_token_ids)
        completion.usage.completion_tokens = self._num_tokens
        completion.timings.total.FromNanoseconds(_nanoseconds(ended - self._accepted.arrival))
        if self._first_token is not None:
            seconds = self._first_token - self._accepted.arrival
            completion.timings.time_to_first_token.FromNanoseconds(_nanoseconds(seconds))
        if self._stats is not None:
            completion.usage.cached_prompt_tokens = self._stats.cached_prompt_tokens
            completion.timings.queue.FromNanoseconds(_nanoseconds(self._stats.queue_seconds))
        if self._accepted.adapter is not None:
            completion.adapter_digest = self._accepted.adapter.digest
            completion.adapter = self._accepted.adapter.reference
            for term in self._accepted.adapter.terms:
                completion.terms.add(adapter=term.reference, digest=term.digest, weight=term.weight)
        return response

    def _count(self, moment: float) -> None:
        """Books a token that the engine gave away at a moment."""
        if self._last_token is None:
            self._first_token = moment
            self._metrics.first_token(
                adapter=self._accepted.digest,
                seconds=moment - self._accepted.arrival,
                prompt_tokens=len(self._accepted.prompt_token_ids),
            )
        gap = None if self._last_token is None else moment - self._last_token
        self._last_token = moment
        self._num_tokens += 1
        self._metrics.token(adapter=self._accepted.digest, gap_seconds=gap)


def _logprobs(token_id: int, at_token: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(
        chosen=pb.TokenLogprob(token_id=token_id, logprob=at_token.chosen),
        top=[pb.TokenLogprob(token_id=other, logprob=value) for other, value in at_token.top],
    )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
