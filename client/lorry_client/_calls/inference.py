"""The calls of the inference service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_client import compositions
from lorry_client._calls.requests import GENERATION_SECONDS, LOOKUP_SECONDS, build
from lorry_client._steps import Call, Page
from lorry_client.errors import Internal, InvalidArgument
from lorry_client.results.generation import (
    Chunk,
    Completion,
    Model,
    Tokens,
    Transcript,
    Transcripts,
)
from lorry_client.results.prompts import Classification, Embedding, Scores, TokenClassification

if TYPE_CHECKING:
    from lorry_client.compositions import Composition
    from lorry_client.sampling import Message, Pooling, Prompt

_POOLINGS: dict[Pooling, pb.Pooling] = {"last": pb.POOLING_LAST, "mean": pb.POOLING_MEAN}


def generate(request: pb.GenerateRequest) -> Call[Completion]:
    """The whole answer at once."""
    return Call(
        lambda stubs: stubs.inference.GenerateUnary,
        request,
        _read_whole,
        GENERATION_SECONDS,
    )


def stream(request: pb.GenerateRequest) -> Call[Chunk]:
    """The answer as it comes. The call remembers what it has read: one call, one stream."""
    return Call(
        lambda stubs: stubs.inference.Generate,
        request,
        Transcripts().take,
        GENERATION_SECONDS,
    )


def completed(last: Chunk | None) -> Completion:
    """The completion that the last chunk carries; an answer that ends without one is the server's bug."""
    if last is None or last.completion is None:
        raise Internal("The server ended the answer without a completion.", reason="NO_COMPLETION")
    return last.completion


def _read_whole(message: pb.GenerateResponse) -> Completion:
    whole = completed(Transcript().take(message))
    others = (completed(Transcript().take(other)) for other in message.alternatives)
    return replace(whole, alternatives=tuple(others))


def score(
    prompt: Prompt,
    continuations: Sequence[str | Sequence[int]],
    adapter: str | Composition | None,
    sticky_key: str | None,
    logprobs: int,
) -> Call[Scores]:
    """How likely continuations of a prompt are."""
    request = build(
        pb.ScoreRequest,
        **_prompt_field(prompt),
        **compositions.target(adapter),
        continuations=[_continuation(each) for each in continuations],
        sticky_key=sticky_key,
        logprobs=logprobs,
    )
    return Call(lambda stubs: stubs.inference.Score, request, Scores.read, GENERATION_SECONDS)


def embed(
    prompt: Prompt,
    adapter: str | Composition | None,
    sticky_key: str | None,
    pooling: Pooling,
    normalize: bool,
) -> Call[Embedding]:
    """A prompt as a vector."""
    if pooling not in _POOLINGS:
        raise InvalidArgument(
            f"pooling is {pooling!r}; it must be one of {', '.join(_POOLINGS)}.",
            reason="INVALID_FIELD",
        )
    request = build(
        pb.EmbedRequest,
        **_prompt_field(prompt),
        **compositions.target(adapter),
        sticky_key=sticky_key,
        pooling=_POOLINGS[pooling],
        normalize=normalize,
    )
    return Call(lambda stubs: stubs.inference.Embed, request, Embedding.read, GENERATION_SECONDS)


def classify(
    prompt: Prompt, adapter: str | Composition | None, pair: str | None, sticky_key: str | None
) -> Call[Classification]:
    """What an adapter's own head says of a prompt."""
    request = build(
        pb.ClassifyRequest,
        **_prompt_field(prompt),
        **compositions.target(adapter),
        pair=pair,
        sticky_key=sticky_key,
    )
    return Call(
        lambda stubs: stubs.inference.Classify, request, Classification.read, GENERATION_SECONDS
    )


def classify_tokens(
    text: str, adapter: str | Composition | None, pair: str | None, sticky_key: str | None
) -> Call[TokenClassification]:
    """What an adapter's own head says of each token of a text."""
    request = build(
        pb.ClassifyTokensRequest,
        text=text,
        **compositions.target(adapter),
        pair=pair,
        sticky_key=sticky_key,
    )
    return Call(
        lambda stubs: stubs.inference.ClassifyTokens,
        request,
        TokenClassification.read,
        GENERATION_SECONDS,
    )


def tokenize(prompt: str | Sequence[Message]) -> Call[Tokens]:
    """A prompt's token ids."""
    return Call(
        lambda stubs: stubs.inference.Tokenize,
        build(pb.TokenizeRequest, **_prompt_field(prompt)),
        Tokens.read,
        LOOKUP_SECONDS,
    )


def models(page_token: str) -> Call[Page[Model]]:
    """A page of what a request may name."""
    return Call(
        lambda stubs: stubs.inference.ListModels,
        pb.ListModelsRequest(page_size=1000, page_token=page_token),
        lambda answer: Page([Model.read(one) for one in answer.models], answer.next_page_token),
        LOOKUP_SECONDS,
    )


def generate_request(
    prompt: Prompt,
    adapter: str | Composition | None,
    sticky_key: str | None = None,
    *,
    merged: bool = False,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    bad_words: Sequence[str] = (),
    bad_token_sequences: Sequence[Sequence[int]] = (),
    min_tokens: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    ignore_eos: bool = False,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    json_schema: str | Mapping[str, Any] | None = None,
    regex: str | None = None,
    grammar: str | None = None,
    n: int | None = None,
    best_of: int | None = None,
) -> pb.GenerateRequest:
    """The request that `Sampling` and a prompt make; what is None stays absent, for the server to choose."""
    sampling = build(
        pb.SamplingParameters,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=logit_bias,
        bad_words=bad_words,
        bad_token_sequences=[build(pb.TokenPrompt, token_ids=ids) for ids in bad_token_sequences],
        min_tokens=min_tokens,
        seed=seed,
        stop=[stop] if isinstance(stop, str) else stop,
        stop_token_ids=stop_token_ids,
        ignore_eos=ignore_eos,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        **_form_field(json_schema, regex, grammar),
        n=n,
        best_of=best_of,
    )
    return build(
        pb.GenerateRequest,
        **_prompt_field(prompt),
        **compositions.target(adapter),
        sampling=sampling,
        sticky_key=sticky_key,
        execution=pb.EXECUTION_MERGED if merged else None,
    )


def _form_field(
    json_schema: str | Mapping[str, Any] | None, regex: str | None, grammar: str | None
) -> dict[str, str]:
    """The one field of the form's `oneof` that is to be set, if any."""
    if json_schema is not None and not isinstance(json_schema, str):
        json_schema = json.dumps(json_schema)
    given = {"json_schema": json_schema, "regex": regex, "grammar": grammar}
    fields = {name: value for name, value in given.items() if value is not None}
    if len(fields) > 1:
        raise InvalidArgument(
            f"An answer has one form; choose one of {' and '.join(fields)}.", reason="INVALID_FIELD"
        )
    return fields


def _prompt_field(prompt: Prompt) -> dict[str, Any]:
    """The one field of the prompt's `oneof` that is to be set."""
    if isinstance(prompt, str):
        return {"text": prompt}
    turns = list(prompt)
    if turns and all(isinstance(turn, dict) for turn in turns):
        return {"chat": build(pb.ChatPrompt, messages=[_chat_message(turn) for turn in turns])}
    if all(isinstance(turn, int) and not isinstance(turn, bool) for turn in turns):
        return {"tokens": build(pb.TokenPrompt, token_ids=turns)}
    raise InvalidArgument(
        "A prompt is a string, a list of messages {'role': …, 'content': …}, or a list of token ids.",
        reason="INVALID_PROMPT",
    )


def _continuation(continuation: str | Sequence[int]) -> pb.Continuation:
    if isinstance(continuation, str):
        return build(pb.Continuation, text=continuation)
    return build(pb.Continuation, tokens=build(pb.TokenPrompt, token_ids=continuation))


def _chat_message(turn: Any) -> pb.ChatMessage:
    if set(turn) != {"role", "content"}:
        raise InvalidArgument(
            f"A message has exactly the keys 'role' and 'content', not {sorted(turn)}.",
            reason="INVALID_PROMPT",
        )
    return build(pb.ChatMessage, role=turn["role"], content=turn["content"])
