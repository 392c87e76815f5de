"""A prompt's label: what the adapter's own head says of its last token's final hidden state, or an encoder's of all."""

from __future__ import annotations

import math

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition
from lorry_server.base import ServedBase
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.labels import LabelNames
from lorry_server.services.prompts import ReadText
from lorry_server.services.submission import Asked, Submission, request_ids


def classified(text: ReadText, asked: Asked, base: ServedBase) -> GenerationRequest:
    """What the engine is to do. Raises FailedPrecondition where no adapter acts: a base has no such head."""
    if asked.adapter is None:
        raise FailedPrecondition(
            f"The base {base.name} has no head that classifies; name an adapter that has one.",
            reason="NO_HEAD",
            base=base.name,
        )
    return GenerationRequest(
        request_id=request_ids(1)[0],
        prompt_token_ids=text.token_ids,
        sampling=SamplingParams(max_tokens=0),
        adapter=asked.digest,
        deadline=asked.deadline,
        pool_from=0 if base.is_encoder else len(text.token_ids) - 1,
        classifies=True,
        token_types=text.token_types,
    )


async def answer(submission: Submission, asked: Asked, labels: LabelNames) -> pb.ClassifyResponse:
    """Once the prompt is computed."""
    [outputs] = await submission.whole()
    logits = outputs[-1].embedding
    names = await labels.of(asked.digest or "") or ("",) * len(logits)
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    response = pb.ClassifyResponse(
        adapter_digest=asked.digest or "",
        adapter="" if asked.adapter is None else asked.adapter.reference,
    )
    total = sum(weights)
    for index, (logit, weight, name) in enumerate(zip(logits, weights, names, strict=True)):
        response.labels.add(index=index, logit=logit, probability=weight / total, name=name)
    if submission.stats is not None:
        response.usage.prompt_tokens = submission.stats.prompt_tokens
        response.usage.cached_prompt_tokens = submission.cached_prompt_tokens
    return response
