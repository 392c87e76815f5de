"""Generation over a socket: what streams is what the unary form answers, and nothing stays behind."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_server.services.validation import DEFAULT_MAX_TOKENS


def request(text: str = "hello there", *, adapter: str = "", **sampling) -> pb.GenerateRequest:
    sampling.setdefault("ignore_eos", True)
    return pb.GenerateRequest(
        text=text, adapter=adapter, sampling=pb.SamplingParameters(**sampling)
    )


async def test_deltas_are_the_unary_answer(node, tokenizer):
    asked = request(max_tokens=60)
    deltas = await node.generate(asked)
    answer = await node.inference.GenerateUnary(asked)
    token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
    assert token_ids == list(answer.token_ids)
    assert len(token_ids) == 60
    assert "".join(delta.text for delta in deltas) == answer.text
    assert answer.text == tokenizer.decode(token_ids, skip_special_tokens=True)
    assert all(not delta.HasField("completion") for delta in deltas[:-1])
    assert deltas[-1].completion.finish_reason == pb.FINISH_REASON_LENGTH


async def test_the_completion_tells_what_was_used(node):
    version = node.registry.publish("support")
    answer = await node.inference.GenerateUnary(request(adapter="support", max_tokens=5))
    done = answer.completion
    assert (done.adapter_digest, done.adapter) == (
        version.digest,
        f"default/support@{version.digest}",
    )
    assert done.usage.prompt_tokens == len(node.engine.submitted[-1].prompt_token_ids)
    assert (done.usage.completion_tokens, done.usage.cached_prompt_tokens) == (5, 3)
    seconds = done.timings.time_to_first_token.ToTimedelta().total_seconds()
    assert 0 < seconds <= done.timings.total.ToTimedelta().total_seconds() < 5
    bare = await node.inference.GenerateUnary(request(max_tokens=1))
    assert (bare.completion.adapter_digest, bare.completion.adapter) == ("", "")


async def test_chat_and_token_prompts_reach_the_engine_as_the_template_and_as_they_are(
    node, tokenizer
):
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="hi")])
    await node.generate(pb.GenerateRequest(chat=chat, sampling=pb.SamplingParameters(max_tokens=1)))
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=False
    )
    assert list(node.engine.submitted[-1].prompt_token_ids) == rendered
    tokens = pb.TokenPrompt(token_ids=[7, 8, 9])
    await node.generate(
        pb.GenerateRequest(tokens=tokens, sampling=pb.SamplingParameters(max_tokens=1))
    )
    assert node.engine.submitted[-1].prompt_token_ids == (7, 8, 9)


async def test_what_is_not_set_has_its_default(node, tokenizer):
    await node.generate(pb.GenerateRequest(text="hi"))
    await node.generate(pb.GenerateRequest(text="hi"))
    first, second = (submitted.sampling for submitted in node.engine.submitted)
    assert (first.temperature, first.top_k, first.top_p, first.top_logprobs) == (0.0, 0, 1.0, None)
    assert first.max_tokens == min(DEFAULT_MAX_TOKENS, 200 - len(tokenizer("hi")["input_ids"]))
    assert first.stop_token_ids == {tokenizer.eos_token_id}
    assert first.seed != second.seed


async def test_logprobs_come_with_their_tokens(node):
    answer = await node.inference.GenerateUnary(request(max_tokens=3, logprobs=2))
    assert [at.chosen.token_id for at in answer.logprobs] == list(answer.token_ids)
    assert all(len(at.top) == 2 for at in answer.logprobs)
    none = await node.inference.GenerateUnary(request(max_tokens=3))
    assert not none.logprobs


def scripted(node, tokenizer, text: str) -> list[int]:
    node.engine.script = tokenizer(text, add_special_tokens=False)["input_ids"]
    return node.engine.script


@pytest.mark.parametrize("stop", ["stone", "a stone st", "ne", "s"])
async def test_a_stop_string_ends_the_text_before_it(node, tokenizer, stop):
    text = "the river ran over a stone step by step and on"
    script = scripted(node, tokenizer, text)
    asked = request(max_tokens=100, stop=["never there", stop])
    deltas = await node.generate(asked)
    shown = "".join(delta.text for delta in deltas)
    assert shown == text[: text.find(stop)]
    done = deltas[-1].completion
    assert (done.finish_reason, done.stop) == (pb.FINISH_REASON_STOP, stop)
    token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
    assert token_ids == script[: len(token_ids)]
    assert stop in tokenizer.decode(token_ids)
    assert stop not in tokenizer.decode(token_ids[:-1])
    assert done.usage.completion_tokens == len(token_ids)
    assert (await node.inference.GenerateUnary(asked)).text == shown
    await node.idle()  # the engine would have gone on to 100 tokens
    assert len(node.engine.cancelled) == 2


async def test_a_stop_token_is_an_id_and_no_text(node, tokenizer):
    script = scripted(node, tokenizer, "one two three")
    answer = await node.inference.GenerateUnary(request(max_tokens=50, stop_token_ids=[script[-1]]))
    assert answer.completion.finish_reason == pb.FINISH_REASON_STOP
    assert list(answer.token_ids) == script
    assert answer.text == tokenizer.decode(script[:-1])


async def test_end_of_sequence_ends_unless_it_is_ignored(node, tokenizer):
    node.engine.script = [5, 6, tokenizer.eos_token_id]
    answer = await node.inference.GenerateUnary(request(max_tokens=9, ignore_eos=False))
    assert len(answer.token_ids) == 3
    assert answer.completion.finish_reason == pb.FINISH_REASON_STOP
    answer = await node.inference.GenerateUnary(request(max_tokens=9))
    assert len(answer.token_ids) == 9


async def test_many_at_once_do_not_mix(node):
    names = ["", *(node.registry.publish(f"task-{n}").key.adapter_id for n in range(4))]
    asked = [request(f"prompt {n}", adapter=names[n % 5], max_tokens=30) for n in range(40)]
    alone = [await node.inference.GenerateUnary(one) for one in asked[:5]]
    node.engine._max_waiting = 100
    together = await asyncio.gather(*(node.generate(one) for one in asked))
    for one, deltas in zip(alone, together, strict=False):
        assert "".join(delta.text for delta in deltas) == one.text
    assert len({deltas[-1].completion.adapter for deltas in together}) == 5
    await node.idle()


async def test_a_slow_reader_misses_nothing(node):
    asked = request(max_tokens=150)
    call = node.inference.Generate(asked)
    token_ids: list[int] = []
    async for response in call:
        if not token_ids:
            await asyncio.sleep(0.3)  # all is generated by now
        token_ids += response.token_ids
    assert token_ids == list((await node.inference.GenerateUnary(asked)).token_ids)


@pytest.mark.parametrize("unary", [False, True])
async def test_a_client_that_vanishes_frees_everything(start_node, unary):
    async with start_node(step_seconds=0.005) as node:
        asked = request(max_tokens=150)
        call = node.inference.GenerateUnary(asked) if unary else node.inference.Generate(asked)
        if unary:
            await asyncio.sleep(0.05)
        else:
            await call.read()
        assert node.engine.stats().running == 1
        call.cancel()
        await node.idle()
        assert len(node.engine.cancelled) == 1
        assert node.sample("lorry_requests_total", outcome="cancelled") == 1


async def test_a_client_whose_connection_breaks_frees_everything(start_node):
    async with start_node(step_seconds=0.005) as node:
        async with grpc.aio.insecure_channel(node.host.address) as channel:
            calls = [
                type(node.inference)(channel).Generate(request(max_tokens=150)) for _ in range(5)
            ]
            for call in calls:
                await call.read()
            assert node.engine.stats().running == 5
        await node.idle()


async def test_a_deadline_ends_a_request_wherever_it_is(start_node):
    async with start_node(step_seconds=0.01) as node:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await node.generate(request(max_tokens=150), timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await node.idle()
        node.engine.paused.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await node.generate(request(max_tokens=2), timeout=0.1)
        node.engine.paused.clear()
        await node.idle()
        assert node.sample("lorry_requests_total", outcome="deadline") == 2


async def test_a_deadline_that_has_passed_costs_the_engine_nothing(node):
    for timeout in (0.0, -1.0, 1e-9):
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await node.generate(request(max_tokens=2), timeout=timeout)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await node.idle()
    assert not node.engine.stats().running


async def test_a_deadline_reaches_the_engine(node):
    await node.generate(request(max_tokens=1), timeout=30)
    left = node.engine.submitted[-1].deadline - time.monotonic()
    assert 25 < left < 31
    await node.generate(request(max_tokens=1))
    assert node.engine.submitted[-1].deadline is None


async def test_an_engine_that_breaks_answers_everybody(start_node):
    async with start_node(step_seconds=0.005) as node:
        calls = [node.inference.GenerateUnary(request(max_tokens=150)) for _ in range(3)]
        await asyncio.sleep(0.05)
        node.engine.broken_by = RuntimeError("the device is gone")
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert (await node.refusal(request()))[1] == "ENGINE_FAILED"
        await node.idle()
        assert node.sample("lorry_requests_total", outcome="error") == 3


async def test_tokenize_answers_what_generate_would_see(node, tokenizer):
    answer = await node.inference.Tokenize(pb.TokenizeRequest(text="hello there"))
    assert list(answer.token_ids) == tokenizer("hello there")["input_ids"]
    assert answer.context_length == 200
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="hi")])
    answer = await node.inference.Tokenize(pb.TokenizeRequest(chat=chat))
    assert "hi" in answer.text
    long = await node.inference.Tokenize(pb.TokenizeRequest(text="longer than the context " * 200))
    assert len(long.token_ids) > 200


async def test_models_are_the_base_and_the_adapters_that_fit(node, base):
    fits = {name: node.registry.publish(name).digest for name in ("alpha", "beta", "gamma")}
    node.registry.publish("other", base="sha256:" + "c" * 64)
    await node.generate(request(adapter="beta", max_tokens=1))
    seen, token = [], ""
    while True:
        page = await node.inference.ListModels(pb.ListModelsRequest(page_size=1, page_token=token))
        assert len(page.models) <= 1
        seen += page.models
        if not (token := page.next_page_token):
            break
    assert [model.reference for model in seen] == ["", *(f"default/{name}" for name in fits)]
    assert [model.digest for model in seen] == [base.fingerprint, *fits.values()]
    assert [model.resident for model in seen] == [True, False, True, False]
    assert seen[0].display_name == "lorry-tiny"
