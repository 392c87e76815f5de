"""How likely given continuations are: one sequence for each, which differ in what follows the prompt they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import InvalidArgument
from lorry_server.base import ServedBase
from lorry_server.engine.request import (
    GenerationRequest,
    PromptScores,
    SamplingParams,
    TokenLogprobs,
)
from lorry_server.services.candidate import logprobs_message
from lorry_server.services.checks import check_between, check_count, check_ids, invalid
from lorry_server.services.submission import Asked, Submission, request_ids
from lorry_server.services.validation import MAX_LOGPROBS, check_fits

MAX_CONTINUATIONS = 64
MAX_NUMBERS = 200_000  # log-probabilities in one answer: well within a message
_NOTHING = SamplingParams(max_tokens=0)


def check_continuations(continuations: Sequence[pb.Continuation]) -> None:
    """Before they are read: refuses none, too many, and such as say nothing."""
    if not continuations:
        raise invalid("continuations", "empty", "at least one")
    check_count("continuations", len(continuations), MAX_CONTINUATIONS, "continuations")
    for index, continuation in enumerate(continuations):
        if not (continuation.text or continuation.tokens.token_ids):
            raise _empty(index)


@dataclass(frozen=True, slots=True)
class Scoring:
    """A prompt and what may follow it, as token ids."""

    prompt: tuple[int, ...]
    continuations: Sequence[tuple[int, ...]]
    top: int

    def check(self, base: ServedBase) -> None:
        """Raises InvalidArgument where the engine cannot take it."""
        check_between("logprobs", self.top, 0, MAX_LOGPROBS)
        check_ids(self.prompt, base, "Token {index} of the prompt")
        for index, continuation in enumerate(self.continuations):
            if not continuation:
                raise _empty(index)
            check_ids(continuation, base, f"Token {{index}} of continuations[{index}]")
            check_fits(self.prompt + continuation, base, f"The prompt with continuations[{index}]")
        numbers = sum(map(len, self.continuations)) * (1 + self.top)
        if numbers > MAX_NUMBERS:
            raise InvalidArgument(
                f"The request asks for {numbers} log-probabilities; at most {MAX_NUMBERS} come in one answer. Score "
                "fewer continuations at once, or ask for fewer alternatives.",
                reason="SCORES_TOO_MANY",
                numbers=numbers,
                max_numbers=MAX_NUMBERS,
            )

    def requests(self, asked: Asked) -> list[GenerationRequest]:
        """One for each continuation; those after the first wait for it, whose blocks of the prompt they share."""
        ids = request_ids(len(self.continuations))
        return [
            GenerationRequest(
                request_id=ids[index],
                prompt_token_ids=self.prompt + continuation,
                sampling=_NOTHING,
                adapter=asked.digest,
                deadline=asked.deadline,
                follows=ids[0] if index else None,
                # One of the likeliest tells whether a token is what greedy decoding says.
                scores=PromptScores(len(self.prompt), max(1, self.top)),
            )
            for index, continuation in enumerate(self.continuations)
        ]

    async def answer(self, submission: Submission, asked: Asked) -> pb.ScoreResponse:
        """Once all are scored."""
        outputs = await submission.whole()
        response = pb.ScoreResponse()
        for continuation, parts in zip(self.continuations, outputs, strict=True):
            scores = [score for part in parts for score in part.prompt_logprobs]
            response.scores.append(self._score(continuation, scores))
        response.usage.prompt_tokens = len(self.prompt) + sum(map(len, self.continuations))
        response.usage.cached_prompt_tokens = submission.cached_prompt_tokens
        response.adapter_digest = asked.digest or ""
        response.adapter = "" if asked.adapter is None else asked.adapter.reference
        return response

    def _score(
        self, token_ids: tuple[int, ...], scores: Sequence[TokenLogprobs]
    ) -> pb.ContinuationScore:
        message = pb.ContinuationScore(
            logprob=sum(score.chosen for score in scores),
            greedy=all(
                score.chosen >= score.top[0][1] or score.top[0][0] == token_id
                for token_id, score in zip(token_ids, scores, strict=True)
            ),
        )
        for token_id, score in zip(token_ids, scores, strict=True):
            told = TokenLogprobs(score.chosen, score.top[: self.top])
            message.tokens.append(logprobs_message(token_id, told))
        return message


def _empty(index: int) -> InvalidArgument:
    return InvalidArgument(
        f"continuations[{index}] is empty; a continuation has at least one token.",
        reason="CONTINUATION_EMPTY",
        index=index,
    )
