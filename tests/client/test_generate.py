"""Generation through both clients: what is sent, what is read, and what happens when it is cut short."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from contextlib import aclosing, closing
from typing import Any

import pytest

import lorry_client
from lorry_client import AsyncClient, Client

DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def client(server: Any) -> Any:
    with Client() as connected:
        yield connected


def test_the_completion_says_what_acted_and_what_it_used(client: Client) -> None:
    done = client.generate("one two three", "intent@production")
    assert done.text == "one two three"
    assert done.token_ids == (0, 1, 2)
    assert done.finish_reason == "stop"
    assert done.stop == "\n"
    assert done.adapter == f"default/intent@{DIGEST}"
    assert done.adapter_digest == DIGEST
    assert done.usage == lorry_client.Usage(7, 4, 3)
    assert done.timings.total_seconds == 1.5
    assert client.generate("bare").adapter is None


def test_an_empty_reference_is_not_the_bare_base(client: Client, server: Any) -> None:
    """A variable that nobody had set made `-a ""` answer from the base, without a word."""
    with pytest.raises(lorry_client.InvalidArgument) as caught:
        client.generate("one", "")
    assert caught.value.reason == "EMPTY_REFERENCE"
    with pytest.raises(lorry_client.InvalidArgument):
        next(client.stream("one", ""))
    assert not server.inference.requests


def test_results_are_frozen(client: Client) -> None:
    done = client.generate("one")
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.text = "two"  # type: ignore[misc]


def test_a_stream_adds_up_to_the_completion_in_its_last_chunk(client: Client) -> None:
    chunks = list(client.stream("one two three", logprobs=2))
    assert [chunk.text for chunk in chunks] == ["one", " two", " three", ""]
    assert [chunk.completion is None for chunk in chunks] == [True, True, True, False]
    end = chunks[-1].completion
    assert end is not None
    assert end.text == "one two three"
    assert end.logprobs == tuple(one for chunk in chunks for one in chunk.logprobs)
    assert end == client.generate("one two three", logprobs=2)


def test_what_is_not_given_is_not_sent(client: Client, server: Any) -> None:
    """0 and absent differ: temperature 0 is greedy, an absent max_tokens is the server's choice."""
    client.generate("x", temperature=0.0, max_tokens=None, stop="end", stop_token_ids=[2])
    sent = server.inference.requests[-1]
    assert sent.sampling.HasField("temperature")
    assert not sent.sampling.HasField("max_tokens")
    assert not sent.HasField("target")
    assert list(sent.sampling.stop) == ["end"]
    assert list(sent.sampling.stop_token_ids) == [2]


def test_the_three_forms_of_a_prompt(client: Client, server: Any) -> None:
    client.generate("text")
    client.generate([{"role": "user", "content": "hello"}])
    client.generate([3, 1, 4])
    text, chat, tokens = server.inference.requests
    assert text.WhichOneof("prompt") == "text"
    assert chat.chat.messages[0].content == "hello"
    assert list(tokens.tokens.token_ids) == [3, 1, 4]


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ([{"role": "user"}], {}),
        ([1, "two"], {}),
        ([2**40], {}),
        ("x", {"max_tokens": 2**40}),
        ("x", {"seed": -1}),
        ("x", {"top_k": 1.5}),
    ],
)
def test_what_no_request_can_hold_is_refused_before_it_is_sent(
    client: Client, server: Any, prompt: Any, options: Any
) -> None:
    with pytest.raises(lorry_client.InvalidArgument):
        client.generate(prompt, **options)
    with pytest.raises(lorry_client.InvalidArgument):
        client.stream(prompt, **options)
    assert server.inference.requests == []


def test_an_unknown_option_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="temprature"):
        client.generate("x", temprature=1)  # type: ignore[call-arg]


def test_errors_carry_reason_and_metadata(client: Client) -> None:
    with pytest.raises(lorry_client.NotFound) as caught:
        client.generate("x", "unknown")
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.reason == "ADAPTER_NOT_FOUND"
    assert caught.value.metadata == {"adapter": "unknown"}
    with pytest.raises(lorry_client.ResourceExhausted) as full:
        list(client.stream("full"))
    assert full.value.metadata["retry_after_seconds"] == "1"


def test_an_answer_without_a_completion_is_an_error(client: Client) -> None:
    with pytest.raises(lorry_client.Internal, match="without a completion"):
        list(client.stream("no end"))
    with pytest.raises(lorry_client.Internal, match="without a completion"):
        client.generate("no end")


def test_a_deadline_ends_the_call(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(lorry_client.DeadlineExceeded):
        client.generate("hang", timeout=0.3)
    with pytest.raises(lorry_client.DeadlineExceeded):
        list(client.stream("hang", timeout=0.3))
    assert time.monotonic() - started < 5
    with pytest.raises(lorry_client.DeadlineExceeded):
        client.generate("x", timeout=-1)


def test_leaving_a_stream_early_cancels_the_request(client: Client, server: Any) -> None:
    with closing(client.stream("hang")) as chunks:
        assert next(chunks).text == "first "
    assert server.inference.cancelled.wait(5)


def test_nobody_there_is_unavailable_and_names_the_place() -> None:
    with Client("127.0.0.1:1") as nobody, pytest.raises(lorry_client.Unavailable) as caught:
        nobody.status()
    assert "127.0.0.1:1" in caught.value.message


def test_tokenize_and_models(client: Client) -> None:
    assert client.tokenize("hi") == lorry_client.Tokens((5, 6), "<s>hi", 512)
    assert [model.reference for model in client.models()] == [
        "",
        "default/a0",
        "default/a1",
        "default/a2",
    ]


async def test_awaiting_gives_what_blocking_gives(server: Any) -> None:
    with Client() as client:
        expected = client.generate("one two", "intent", logprobs=1)
    async with AsyncClient() as asynchronous:
        assert await asynchronous.generate("one two", "intent", logprobs=1) == expected
        chunks = [chunk async for chunk in asynchronous.stream("one two", "intent", logprobs=1)]
        assert chunks[-1].completion == expected
        many = await asyncio.gather(*(asynchronous.generate(f"n {n}") for n in range(20)))
        assert [one.text for one in many] == [f"n {n}" for n in range(20)]
        assert len(await asynchronous.models()) == 4
        with pytest.raises(lorry_client.NotFound) as caught:
            await asynchronous.generate("x", "unknown")
        assert caught.value.reason == "ADAPTER_NOT_FOUND"
        with pytest.raises(lorry_client.DeadlineExceeded):
            await asynchronous.generate("hang", timeout=0.2)


async def test_leaving_an_awaited_stream_early_cancels_the_request(server: Any) -> None:
    async with AsyncClient() as client:
        async with aclosing(client.stream("hang")) as chunks:
            assert (await anext(chunks)).text == "first "
        assert await asyncio.to_thread(server.inference.cancelled.wait, 5)


async def test_cancelling_the_task_cancels_the_request(server: Any) -> None:
    async with AsyncClient() as client:
        task = asyncio.create_task(client.generate("hang"))
        assert await asyncio.to_thread(server.inference.arrived.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.inference.cancelled.wait, 5)


def test_admin(client: Client) -> None:
    assert client.status().base == "lorry-tiny"
    assert client.residents()[0].tier == "slot"
    assert client.load("intent", pin=True).pinned
    with pytest.raises(lorry_client.FailedPrecondition):
        client.unload("intent")
    assert not client.pin("intent", False).pinned
    assert client.unload("intent") == DIGEST
