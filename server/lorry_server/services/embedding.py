"""A prompt as a vector: its final hidden states, pooled by the engine."""

from __future__ import annotations

import math

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.services.checks import invalid
from lorry_server.services.submission import Asked, Submission, request_ids


def pooled(prompt: tuple[int, ...], request: pb.EmbedRequest, asked: Asked) -> GenerationRequest:
    """What the engine is to do. Raises InvalidArgument where the pooling is none that this server knows."""
    if request.pooling not in pb.Pooling.values():
        raise invalid("pooling", request.pooling, "POOLING_LAST or POOLING_MEAN")
    mean = request.pooling == pb.POOLING_MEAN
    return GenerationRequest(
        request_id=request_ids(1)[0],
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_tokens=0),
        adapter=asked.digest,
        deadline=asked.deadline,
        pool_from=0 if mean else len(prompt) - 1,
    )


async def answer(
    submission: Submission, request: pb.EmbedRequest, asked: Asked
) -> pb.EmbedResponse:
    """Once the prompt is computed."""
    [outputs] = await submission.whole()
    vector = outputs[-1].embedding
    if request.normalize:
        length = math.hypot(*vector) or 1.0
        vector = tuple(value / length for value in vector)
    response = pb.EmbedResponse(
        embedding=vector,
        adapter_digest=asked.digest or "",
        adapter="" if asked.adapter is None else asked.adapter.reference,
    )
    if submission.stats is not None:
        response.usage.prompt_tokens = submission.stats.prompt_tokens
        response.usage.cached_prompt_tokens = submission.cached_prompt_tokens
    return response
