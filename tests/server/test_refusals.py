"""Bad input: each is refused by name, in both forms, and the server serves on."""

from __future__ import annotations

import math
from dataclasses import replace

import grpc
import pytest

from lorry.inference.v1 import inference_service_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def request(
    text: str | None = "hello there", *, ids=None, chat=None, adapter: str = "", **sampling
):
    message = pb.GenerateRequest(adapter=adapter, sampling=pb.SamplingParameters(**sampling))
    if ids is not None:
        message.tokens.token_ids.extend(ids)
    elif chat is not None:
        message.chat.SetInParent()
        for role, content in chat:
            message.chat.messages.add(role=role, content=content)
    elif text is not None:
        message.text = text
    return message


def ids(*token_ids: int) -> pb.TokenPrompt:
    return pb.TokenPrompt(token_ids=token_ids)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (request(None), "PROMPT_MISSING"),
        (request(""), "PROMPT_EMPTY"),
        (request(ids=[]), "PROMPT_EMPTY"),
        (request(chat=[]), "PROMPT_EMPTY"),
        (request(chat=[("wizard", "hi")]), "ROLE_UNKNOWN"),
        (request(ids=[-1]), "TOKEN_ID_OUT_OF_RANGE"),
        (request(ids=[5, 10**9]), "TOKEN_ID_OUT_OF_RANGE"),
        (request(ids=[5] * 200), "PROMPT_TOO_LONG"),
        (request("far too long " * 1000), "PROMPT_TOO_LONG"),
        (request(max_tokens=0), "MAX_TOKENS_INVALID"),
        (request(max_tokens=-5), "MAX_TOKENS_INVALID"),
        (request(max_tokens=2**31 - 1), "MAX_TOKENS_TOO_LARGE"),
        (request(temperature=math.nan), "TEMPERATURE_INVALID"),
        (request(temperature=math.inf), "TEMPERATURE_INVALID"),
        (request(temperature=-0.1), "TEMPERATURE_INVALID"),
        (request(temperature=101), "TEMPERATURE_INVALID"),
        (request(top_p=0), "TOP_P_INVALID"),
        (request(top_p=1.01), "TOP_P_INVALID"),
        (request(top_p=math.nan), "TOP_P_INVALID"),
        (request(top_k=-1), "TOP_K_INVALID"),
        (request(logprobs=-1), "LOGPROBS_INVALID"),
        (request(logprobs=21), "LOGPROBS_INVALID"),
        (request(stop=["x"] * 17), "STOP_INVALID"),
        (request(stop=[""]), "STOP_INVALID"),
        (request(stop=["é" * 129]), "STOP_INVALID"),
        (request(stop=["x" * (1 << 20)]), "STOP_INVALID"),
        (request(stop_token_ids=[10**6]), "TOKEN_ID_OUT_OF_RANGE"),
        (request(min_p=-0.1), "MIN_P_INVALID"),
        (request(min_p=1.1), "MIN_P_INVALID"),
        (request(min_p=math.nan), "MIN_P_INVALID"),
        (request(repetition_penalty=0), "REPETITION_PENALTY_INVALID"),
        (request(repetition_penalty=-1), "REPETITION_PENALTY_INVALID"),
        (request(repetition_penalty=10.5), "REPETITION_PENALTY_INVALID"),
        (request(repetition_penalty=math.nan), "REPETITION_PENALTY_INVALID"),
        (request(presence_penalty=2.1), "PRESENCE_PENALTY_INVALID"),
        (request(presence_penalty=math.nan), "PRESENCE_PENALTY_INVALID"),
        (request(frequency_penalty=-math.inf), "FREQUENCY_PENALTY_INVALID"),
        (request(logit_bias={10**6: 1.0}), "TOKEN_ID_OUT_OF_RANGE"),
        (request(logit_bias={-1: 1.0}), "TOKEN_ID_OUT_OF_RANGE"),
        (request(logit_bias={5: 101.0}), "LOGIT_BIAS_INVALID"),
        (request(logit_bias={5: math.nan}), "LOGIT_BIAS_INVALID"),
        (request(logit_bias=dict.fromkeys(range(1025), 1.0)), "LOGIT_BIAS_INVALID"),
        (request(bad_words=["x"] * 65), "BAD_WORDS_INVALID"),
        (request(bad_words=[""]), "BAD_WORDS_INVALID"),
        (request(bad_words=["  "]), "BAD_WORDS_INVALID"),
        (request(bad_words=["x" * 257]), "BAD_WORDS_INVALID"),
        (request(bad_token_sequences=[ids()]), "BAD_TOKEN_SEQUENCES_INVALID"),
        (request(bad_token_sequences=[ids(5)] * 257), "BAD_TOKEN_SEQUENCES_INVALID"),
        (request(bad_token_sequences=[ids(*[5] * 65)]), "BAD_TOKEN_SEQUENCES_INVALID"),
        (request(bad_token_sequences=[ids(5, 10**6)]), "TOKEN_ID_OUT_OF_RANGE"),
        (request(min_tokens=-1), "MIN_TOKENS_INVALID"),
        (request(min_tokens=9, max_tokens=8), "MIN_TOKENS_INVALID"),
        (request(prompt_logprobs=-1), "PROMPT_LOGPROBS_INVALID"),
        (request(prompt_logprobs=21), "PROMPT_LOGPROBS_INVALID"),
        (request(n=0, temperature=1), "N_INVALID"),
        (request(n=33, temperature=1), "N_INVALID"),
        (request(n=-1, temperature=1), "N_INVALID"),
        (request(n=2), "N_INVALID"),
        (request(n=2, temperature=1, max_tokens=2**31 - 1), "MAX_TOKENS_TOO_LARGE"),
        (request(n=2, best_of=1, temperature=1), "BEST_OF_INVALID"),
        (request(best_of=33, temperature=1), "BEST_OF_INVALID"),
        (request(best_of=2), "BEST_OF_INVALID"),
        (request(stop_token_ids=[1] * 257), "STOP_TOKEN_IDS_INVALID"),
        (request(adapter="No Such/Reference"), "NAME_INVALID"),
        (request(adapter="support:0"), "REFERENCE_INVALID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_wrong_requests(node, bad, reason):
    code, given, _ = await node.refusal(bad)
    assert (code, given) == (INVALID, reason)
    assert not node.engine.submitted
    assert node.sample("lorry_requests_total", outcome="refused") == 2
    await node.generate(request(max_tokens=2))


async def test_a_refusal_names_the_value_and_the_rule(node):
    _, _, metadata = await node.refusal(request(ids=[5, 6, 99_999]))
    assert (metadata["index"], metadata["value"]) == ("2", "99999")
    _, _, metadata = await node.refusal(request(ids=[5] * 150, max_tokens=51))
    assert metadata["tokens_left"] == "50"
    _, _, metadata = await node.refusal(request(ids=[5] * 300))
    assert (metadata["prompt_tokens"], metadata["context_length"]) == ("300", "200")


async def test_unset_max_tokens_is_what_the_context_leaves(node):
    await node.generate(request(ids=[5] * 190, ignore_eos=True))
    assert node.engine.submitted[-1].sampling.max_tokens == 10


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nobody", "ADAPTER_NOT_FOUND"),
        ("support@nowhere", "ALIAS_NOT_FOUND"),
        ("support:7", "VERSION_NOT_FOUND"),
        ("support@sha256:" + "0" * 64, "VERSION_NOT_FOUND"),
    ],
)
async def test_unknown_adapters(node, reference, reason):
    node.registry.publish("support")
    assert (await node.refusal(request(adapter=reference)))[:2] == (NOT_FOUND, reason)


async def test_an_adapter_for_another_base_names_both(node, base):
    other = "sha256:" + "c" * 64
    node.registry.publish("support", base=other)
    code, reason, metadata = await node.refusal(request(adapter="support"))
    assert (code, reason) == (PRECONDITION, "ADAPTER_BASE_MISMATCH")
    assert (metadata["adapter_base"], metadata["server_base"]) == (other, base.fingerprint)


async def test_a_rank_above_the_cap(node):
    node.registry.publish("support", rank=17)
    code, reason, metadata = await node.refusal(request(adapter="support"))
    assert (code, reason) == (PRECONDITION, "RANK_ABOVE_CAP")
    assert (metadata["rank"], metadata["max_rank"]) == ("17", "16")


async def test_a_base_without_tokenizer_takes_token_ids_alone(start_node, base):
    async with start_node(replace(base, text=None)) as node:
        for bad in (request("hi"), request(chat=[("user", "hi")]), request(ids=[5], stop=["x"])):
            assert (await node.refusal(bad))[:2] == (PRECONDITION, "NO_TOKENIZER")
        answer = await node.inference.GenerateUnary(request(ids=[5], max_tokens=4, ignore_eos=True))
        assert len(answer.token_ids) == 4
        assert answer.text == ""


async def test_a_base_without_tokenizer_reads_no_bad_words(start_node, base):
    async with start_node(replace(base, text=None)) as node:
        bad = request(ids=[5], bad_words=["x"])
        assert (await node.refusal(bad))[:2] == (PRECONDITION, "NO_TOKENIZER")


async def test_more_answers_than_the_queue_holds(start_node):
    """All or none of a request's answers are queued."""
    async with start_node(max_waiting=3) as node:
        code, reason, _ = await node.refusal(request(n=4, temperature=1, max_tokens=2))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert not node.engine.submitted
        await node.generate(request(n=3, temperature=1, max_tokens=2))
        await node.idle()


async def test_a_base_without_chat_template(start_node, base, tokenizer, codec, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    async with start_node() as node:
        bad = request(chat=[("user", "hi")])
        assert (await node.refusal(bad))[:2] == (PRECONDITION, "NO_CHAT_TEMPLATE")


async def test_a_template_that_refuses(start_node, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    async with start_node() as node:
        bad = request(chat=[("user", "hi")])
        assert (await node.refusal(bad))[:2] == (INVALID, "CHAT_TEMPLATE_REFUSED")


async def test_more_requests_than_the_queue_holds(start_node):
    async with start_node(max_waiting=2) as node:
        node.engine.paused.set()
        calls = [node.inference.GenerateUnary(request(max_tokens=2)) for _ in range(5)]
        while node.sample("lorry_requests_total", outcome="refused") < 3:
            await node.inference.ListModels(pb.ListModelsRequest())
        node.engine.paused.clear()
        codes = [await call.code() for call in calls]
        assert sorted(code.name for code in codes) == ["OK"] * 2 + ["RESOURCE_EXHAUSTED"] * 3


async def test_a_message_beyond_the_limit(node):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await node.generate(request("x" * (5 << 20)))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await node.generate(request(max_tokens=2))


async def test_pages(node):
    for bad in (pb.ListModelsRequest(page_size=-1), pb.ListModelsRequest(page_token="what")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.inference.ListModels(bad)
        assert refused.value.code() is INVALID
