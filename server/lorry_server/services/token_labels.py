"""Labels of every token of a text: what the adapter's own head says of each final hidden state."""

from __future__ import annotations

from dataclasses import replace

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition, ResourceExhausted
from lorry_registry.rpc.host import MAX_MESSAGE_BYTES
from lorry_server.base import ServedBase
from lorry_server.engine.request import GenerationRequest
from lorry_server.labels import LabelNames
from lorry_server.services.classification import classified
from lorry_server.services.prompts import ReadText
from lorry_server.services.submission import Asked, Submission


def of_each_token(text: ReadText, asked: Asked, base: ServedBase) -> GenerationRequest:
    """What the engine is to do. Raises FailedPrecondition where no adapter acts, or nobody knows where tokens stand."""
    if not text.places:
        raise FailedPrecondition(
            f"The tokenizer of {base.name} does not tell where its tokens stand: it has no tokenizer.json.",
            reason="TOKEN_PLACES_UNKNOWN",
            base=base.name,
        )
    return replace(classified(text, asked, base), pool_from=0, of_each=True)


async def answer(
    submission: Submission, text: ReadText, asked: Asked, labels: LabelNames
) -> pb.ClassifyTokensResponse:
    """Once the prompt is computed."""
    [outputs] = await submission.whole()
    said = outputs[-1].embedding
    width = len(said) // len(text.token_ids)
    response = pb.ClassifyTokensResponse(
        labels=await labels.of(asked.digest or ""),
        adapter_digest=asked.digest or "",
        adapter="" if asked.adapter is None else asked.adapter.reference,
    )
    for at, (token_id, place) in enumerate(zip(text.token_ids, text.places, strict=True)):
        response.tokens.add(
            token_id=token_id,
            in_pair=place.in_pair,
            start=place.start,
            end=place.end,
            logits=said[at * width : (at + 1) * width],
        )
    if submission.stats is not None:
        response.usage.prompt_tokens = submission.stats.prompt_tokens
        response.usage.cached_prompt_tokens = submission.cached_prompt_tokens
    if response.ByteSize() > MAX_MESSAGE_BYTES:
        raise ResourceExhausted(
            f"The answer has {response.ByteSize()} bytes, more than the {MAX_MESSAGE_BYTES} that one message may have; "
            "label the text in parts.",
            reason="RESPONSE_TOO_LARGE",
            max_bytes=MAX_MESSAGE_BYTES,
        )
    return response
