"""One answer on its way: what the engine says of its sequence becomes responses."""

from __future__ import annotations

import time

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_server.engine.request import FinishReason, RequestStats, TokenLogprobs
from lorry_server.services.detokenizer import TextStream
from lorry_server.services.outputs import Delivery
from lorry_server.services.submission import Asked

_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


class Candidate:
    """Takes the deliveries of one sequence, in their order."""

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: tuple[int, ...],
        asked: Asked,
        text: TextStream,
        *,
        tells_logprobs: bool,
    ) -> None:
        self.request_id = request_id
        self.completion: pb.Completion | None = None  # None while it runs
        self.ended_by_engine = False  # else by a stop string
        self.first_token: float | None = None  # time.monotonic() seconds
        self.last_token: float | None = None
        self._asked = asked
        self._prompt_token_ids = prompt_token_ids
        self._text = text
        self._tells_logprobs = tells_logprobs
        self._num_scored = 0  # of the prompt
        self._num_tokens = 0
        self._sum_logprobs = 0.0
        self._num_logprobs = 0
        self._stats: RequestStats | None = None  # the engine's, as soon as it tells

    @property
    def mean_logprob(self) -> float:
        return self._sum_logprobs / max(1, self._num_logprobs)

    def take(self, delivery: Delivery, response: pb.GenerateResponse) -> int:
        """Adds what is new to a response; returns how many tokens were taken."""
        output = delivery.output
        self._stats = output.stats or self._stats
        for score in output.prompt_logprobs:
            self._num_scored += 1
            token_id = self._prompt_token_ids[self._num_scored]
            response.prompt_logprobs.append(logprobs_message(token_id, score))
        for index, token_id in enumerate(output.token_ids):
            response.token_ids.append(token_id)
            self._num_tokens += 1
            self.last_token = delivery.moment
            self.first_token = self.first_token or delivery.moment
            if output.logprobs:
                self._add_logprobs(token_id, output.logprobs[index], response)
            is_last = index == len(output.token_ids) - 1
            if output.finish_reason is FinishReason.STOP and is_last:
                break  # a stop token ends the text, it is no part of it
            text, stop = self._text.push(token_id)
            response.text += text
            if stop is not None:
                self._complete(response, pb.FINISH_REASON_STOP, stop)
                return index + 1
        if output.finish_reason is not None:
            self.ended_by_engine = True
            text, stop = self._text.finish()
            response.text += text
            reason = (
                _FINISH_REASONS[output.finish_reason] if stop is None else pb.FINISH_REASON_STOP
            )
            self._complete(response, reason, stop)
        return len(output.token_ids)

    def _add_logprobs(
        self, token_id: int, at_token: TokenLogprobs, response: pb.GenerateResponse
    ) -> None:
        self._sum_logprobs += at_token.chosen
        self._num_logprobs += 1
        if self._tells_logprobs:
            response.logprobs.append(logprobs_message(token_id, at_token))

    def _complete(
        self, response: pb.GenerateResponse, reason: pb.FinishReason, stop: str | None
    ) -> None:
        completion = self.completion = response.completion
        completion.finish_reason = reason
        completion.stop = stop or ""
        completion.usage.prompt_tokens = len(self._prompt_token_ids)
        completion.usage.completion_tokens = self._num_tokens
        if self._num_logprobs:
            completion.mean_logprob = self.mean_logprob
        ended = self.last_token or time.monotonic()
        completion.timings.total.FromNanoseconds(nanoseconds(ended - self._asked.arrival))
        if self.first_token is not None:
            seconds = self.first_token - self._asked.arrival
            completion.timings.time_to_first_token.FromNanoseconds(nanoseconds(seconds))
        if self._asked.adapter is not None:
            completion.adapter_digest = self._asked.adapter.digest
            completion.adapter = self._asked.adapter.reference
            completion.warnings.extend(self._asked.adapter.warnings)
            for term in self._asked.adapter.terms:
                completion.terms.add(adapter=term.reference, digest=term.digest, weight=term.weight)
        if self._stats is not None:
            completion.usage.cached_prompt_tokens = self._stats.cached_prompt_tokens
            completion.timings.queue.FromNanoseconds(nanoseconds(self._stats.queue_seconds))


class Whole:
    """All responses of one answer as one."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._message = pb.GenerateResponse()

    def add(self, response: pb.GenerateResponse) -> None:
        self._texts.append(response.text)
        self._message.token_ids.extend(response.token_ids)
        self._message.logprobs.extend(response.logprobs)
        self._message.prompt_logprobs.extend(response.prompt_logprobs)
        if response.HasField("completion"):
            self._message.completion.CopyFrom(response.completion)

    def message(self, index: int) -> pb.GenerateResponse:
        """The answer, under the index that it is to have."""
        self._message.text = "".join(self._texts)
        self._message.index = index
        return self._message


def logprobs_message(token_id: int, at_token: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(
        chosen=pb.TokenLogprob(token_id=token_id, logprob=at_token.chosen),
        top=[pb.TokenLogprob(token_id=other, logprob=value) for other, value in at_token.top],
    )


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
