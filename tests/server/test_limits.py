"""What one client may cost the others: long texts, long queues, long answers, slow reading."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from prometheus_client import CollectorRegistry

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.config import is_loopback
from lorry_registry.errors import InvalidArgument
from lorry_server.config import ServeConfig
from lorry_server.metrics import requests as request_metrics
from lorry_server.services.text import TextCodec

from .conftest import explained

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def request(text: str = "hello", **sampling) -> pb.GenerateRequest:
    sampling.setdefault("max_tokens", 2)
    return pb.GenerateRequest(
        text=text, sampling=pb.SamplingParameters(ignore_eos=True, **sampling)
    )


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return explained(refused.value)


async def test_a_text_that_cannot_fit_is_refused_unread(node, monkeypatch):
    """One prompt of 3.8 MB kept the tokenizer, and with it every text prompt, for tens of seconds."""

    def must_not_read(*_):
        raise AssertionError("it was read")

    monkeypatch.setattr(TextCodec, "encode", must_not_read)
    monkeypatch.setattr(TextCodec, "render_chat", must_not_read)
    long = "lorem ipsum dolor " * 200_000
    code, reason, metadata = await node.refusal(request(long))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
    assert metadata["characters"] == str(len(long))
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=long)])
    assert (await node.refusal(pb.GenerateRequest(chat=chat)))[1] == "PROMPT_TOO_LONG"
    tokenized = await refusal(node.inference.Tokenize(pb.TokenizeRequest(text=long)))
    assert tokenized[1] == "PROMPT_TOO_LONG"


async def test_a_long_text_that_may_fit_holds_up_no_short_one(node, codec, monkeypatch):
    """There was one thread for all of them."""
    monkeypatch.setattr("lorry_server.services.prompts._SHORT_CHARACTERS", 1000)
    encode = TextCodec.encode

    def slow_where_long(self, text, **options):
        if len(text) > 1000:
            time.sleep(0.5)
        return encode(self, text, **options)

    monkeypatch.setattr(TextCodec, "encode", slow_where_long)
    long = asyncio.ensure_future(node.inference.Tokenize(pb.TokenizeRequest(text="a " * 700)))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await node.inference.Tokenize(pb.TokenizeRequest(text="short"))
    assert time.monotonic() - started < 0.3
    assert list((await long).token_ids) == encode(codec, "a " * 700)


async def test_who_waits_for_the_registry_is_counted(start_node):
    """Only the engine's queue had a bound: any number could wait for the tokenizer or a slow registry before it."""
    async with start_node(max_requests=3) as node:
        node.registry.hangs_for = 0.3
        asked = pb.GenerateRequest(text="hi", adapter="support")
        calls = [node.inference.GenerateUnary(asked) for _ in range(3)]
        await asyncio.sleep(0.1)
        code, reason, metadata = await refusal(node.inference.GenerateUnary(request()))
        assert (code, reason) == (EXHAUSTED, "QUEUE_FULL")
        assert metadata["retry_after_seconds"] == "1"
        for call in calls:
            assert (await refusal(call))[1] == "REGISTRY_UNAVAILABLE"
        node.engine.paused.set()
        calls = [node.inference.GenerateUnary(request()) for _ in range(3)]
        while node.dispatcher.num_unfinished < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await node.refusal(request()))[1] == "QUEUE_FULL"
        node.engine.paused.clear()
        await asyncio.gather(*calls)
        await node.generate(request())


async def test_an_answer_beyond_a_message_is_refused_with_the_way_out(node, monkeypatch):
    """gRPC failed such answers with a status of its own, without ErrorInfo."""
    monkeypatch.setattr("lorry_server.services.inference._LARGEST_ANSWER", 2000)
    monkeypatch.setattr("lorry_server.services.inference.MAX_MESSAGE_BYTES", 2000)
    asked = request(max_tokens=100, logprobs=20)
    code, reason, _ = await refusal(node.inference.GenerateUnary(asked))
    assert (code, reason) == (EXHAUSTED, "RESPONSE_TOO_LARGE")
    tokenized = await refusal(node.inference.Tokenize(pb.TokenizeRequest(text="hello " * 500)))
    assert tokenized[:2] == (EXHAUSTED, "RESPONSE_TOO_LARGE")
    await node.idle()
    token_ids = [id for delta in await node.generate(asked) for id in delta.token_ids]
    assert len(token_ids) == 100


async def test_a_stream_is_cut_into_messages_however_slowly_it_is_read(node, monkeypatch):
    """All that a slow reader had not read came in one message, larger than a message may be."""
    monkeypatch.setattr("lorry_server.services.generation._LARGEST_RESPONSE", 10)
    call = node.inference.Generate(request(max_tokens=150))
    sizes = []
    async for response in call:
        if not sizes:
            await asyncio.sleep(0.3)  # all is generated by now
        sizes.append(len(response.token_ids))
    assert sum(sizes) == 150
    assert max(sizes) <= 10


async def test_times_are_the_engines_not_the_readers(start_node):
    """They were taken when the client had read what came before, so that a slow client made the server look slow."""
    async with start_node(step_seconds=0.002) as node:
        call = node.inference.Generate(request(max_tokens=50, logprobs=20))
        generation_ends = None
        async for response in call:
            time.sleep(0.02)  # noqa: ASYNC251 (the server's loop is this one: it cannot resume either)
            generation_ends = response.completion
        total = generation_ends.timings.total.ToTimedelta().total_seconds()
        assert total < 0.02 * 50
        gaps = node.sample("lorry_inter_token_latency_seconds_count")
        seconds = node.sample("lorry_inter_token_latency_seconds_sum")
        assert gaps == 49
        assert seconds / gaps < 0.015


def test_tallies_are_bounded_where_nobody_scrapes(monkeypatch):
    """With `--metrics ""` nothing ever called `keep`, and every digest stayed for ever."""
    monkeypatch.setattr(request_metrics, "_MAX_DIGESTS", 3)
    metrics = request_metrics.RequestMetrics(CollectorRegistry())
    for n in range(10):
        metrics.first_token(adapter=f"d{n}", seconds=0.1, prompt_tokens=2)
        metrics.token(adapter=f"d{n}", gap_seconds=None)
        metrics.ended("stop", adapter=f"d{n}", seconds=0.1, queue_seconds=None)
    tallies = metrics.tallies
    for tally in (tallies.requests, tallies.prompt_tokens, tallies.generation_tokens):
        assert list(tally) == ["d7", "d8", "d9"]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
    ],
)
def test_who_can_reach_an_address(address, loopback):
    """A server without TLS and login said nothing when it was opened to the network."""
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("option", ["listen", "metrics", "registry"])
@pytest.mark.parametrize(
    "address", ["1:2:3", "::1:7070", "host", "host:", ":1", "host:٣", "h:70000"]
)
def test_every_address_obeys_one_rule(tmp_path, option, address):
    """`--listen` was read by two rules that did not agree."""
    with pytest.raises(InvalidArgument) as refused:
        ServeConfig(home=tmp_path, **{option: address})
    assert refused.value.reason == "ADDRESS_INVALID"
