"""One request on its way through the engine: ids come back, responses go out, and nothing stays behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import ResourceExhausted
from lorry_server.engine.request import GenerationRequest, PromptScores
from lorry_server.metrics.requests import Outcome
from lorry_server.services.candidate import Candidate, Whole
from lorry_server.services.detokenizer import TextStream
from lorry_server.services.outputs import Delivery
from lorry_server.services.submission import Asked, House, Submission, request_ids
from lorry_server.services.text import TextCodec
from lorry_server.services.validation import Decoding

_LARGEST_RESPONSE = 1000  # tokens: even with 20 log-probabilities each, well within a message
_OUTCOMES: dict[int, Outcome] = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that has passed every check."""

    prompt_token_ids: tuple[int, ...]
    decoding: Decoding
    asked: Asked

    def requests(self) -> list[GenerationRequest]:
        """One for each candidate; those after the first wait for its prompt, whose blocks they share."""
        ids = request_ids(self.decoding.best_of)
        scores, form = self.decoding.prompt_logprobs, self.decoding.form
        return [
            GenerationRequest(
                request_id=ids[index],
                prompt_token_ids=self.prompt_token_ids,
                sampling=sampling,
                adapter=self.asked.digest,
                deadline=self.asked.deadline,
                merged=self.asked.merged,
                follows=ids[0] if index else None,
                scores=PromptScores(1, scores) if scores is not None and index == 0 else None,
                constraint=None if form is None else form.constraint(),
            )
            for index, sampling in enumerate(self.decoding.candidates)
        ]


class Generation:
    """Submitted when it is made. `close` must follow, however it ends: it frees what the engine still holds."""

    def __init__(self, accepted: Accepted, *, codec: TextCodec | None, house: House) -> None:
        self._decoding = accepted.decoding
        self._asked = accepted.asked
        self._metrics = house.metrics
        self._num_prompt_tokens = len(accepted.prompt_token_ids)
        self._has_token = False  # any of the candidates
        requests = accepted.requests()
        self._candidates = {
            request.request_id: Candidate(
                request.request_id,
                accepted.prompt_token_ids,
                accepted.asked,
                TextStream(codec, accepted.decoding.stops),
                tells_logprobs=accepted.decoding.tells_logprobs,
            )
            for request in requests
        }
        self._submission = Submission(requests, accepted.asked, house)

    def close(self) -> None:
        """Frees the sequences wherever they are. Safe to call twice."""
        self._submission.close()

    async def responses(self) -> AsyncIterator[pb.GenerateResponse]:
        """Each with all that is new of one answer; an answer's last one has its completion.

        A client that reads slowly gets fewer and larger ones.
        """
        if self._decoding.chooses:
            for response in await self._best():
                yield response
            return
        index = {request_id: index for index, request_id in enumerate(self._candidates)}
        async for request_id, response in self._news():
            response.index = index[request_id]
            yield response

    async def whole(self, max_bytes: int) -> pb.GenerateResponse:
        """All responses as one. Raises ResourceExhausted where they are more than one message may have."""
        answers = [Whole() for _ in range(self._decoding.n)]
        size = 0
        async for response in self.responses():
            size += response.ByteSize()
            if size > max_bytes:
                self._submission.refuse()  # even where the engine is done: nobody gets it
                raise ResourceExhausted(
                    f"The answer is larger than the {max_bytes} bytes that one message may have; stream it with "
                    "Generate, or ask for fewer tokens or log-probabilities.",
                    reason="RESPONSE_TOO_LARGE",
                    max_bytes=max_bytes,
                )
            answers[response.index].add(response)
        answer = answers[0].message(0)
        answer.alternatives.extend(
            other.message(index) for index, other in enumerate(answers[1:], start=1)
        )
        return answer

    async def _best(self) -> list[pb.GenerateResponse]:
        """The best answers, each whole, once all are done; what was asked of the prompt comes with the best."""
        answers = {request_id: Whole() for request_id in self._candidates}
        scores: list[pb.TokenLogprobs] = []
        async for request_id, response in self._news():
            scores += response.prompt_logprobs
            del response.prompt_logprobs[:]
            answers[request_id].add(response)
        ranked = sorted(self._candidates.values(), key=lambda each: -each.mean_logprob)
        best = [
            answers[each.request_id].message(index)
            for index, each in enumerate(ranked[: self._decoding.n])
        ]
        best[0].prompt_logprobs.extend(scores)
        return best

    async def _news(self) -> AsyncIterator[tuple[str, pb.GenerateResponse]]:
        """(request id, what is new of its sequence), until all have ended."""
        while self._submission.running:
            fresh: dict[str, pb.GenerateResponse] = {}
            for delivery in await self._submission.deliveries(_LARGEST_RESPONSE):
                candidate = self._candidates[delivery.output.request_id]
                if candidate.completion is None:
                    response = fresh.setdefault(candidate.request_id, pb.GenerateResponse())
                    self._take(delivery, candidate, response)
            for request_id, response in fresh.items():
                if response.ByteSize():
                    yield request_id, response

    def _take(
        self, delivery: Delivery, candidate: Candidate, response: pb.GenerateResponse
    ) -> None:
        before = candidate.last_token
        for _ in range(candidate.take(delivery, response)):
            self._count(delivery.moment, before)
            before = delivery.moment
        if candidate.completion is not None:
            if candidate.ended_by_engine:
                self._submission.done(candidate.request_id)
            else:
                self._submission.end(candidate.request_id)
            if not self._submission.running:
                self._submission.outcome = _OUTCOMES[candidate.completion.finish_reason]

    def _count(self, moment: float, before: float | None) -> None:
        """Books a token that the engine gave away at a moment, and its sequence's token before it."""
        if not self._has_token:
            self._has_token = True
            self._metrics.first_token(
                adapter=self._asked.digest,
                seconds=moment - self._asked.arrival,
                prompt_tokens=self._num_prompt_tokens,
            )
        self._submission.last_token = moment
        gap = None if before is None else moment - before
        self._metrics.token(adapter=self._asked.digest, gap_seconds=gap)
