"""Prompts as vectors."""

from __future__ import annotations

import grpc
import pytest

from lorry.inference.v1 import inference_service_pb2 as pb

from .conftest import explained

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def ids(*token_ids: int) -> pb.TokenPrompt:
    return pb.TokenPrompt(token_ids=token_ids)


async def test_the_last_state_or_the_mean_of_all_scaled_where_asked(node, tokenizer):
    version = node.registry.publish("support")
    answer = await node.inference.Embed(pb.EmbedRequest(text="hello there", adapter="support"))
    count = len(tokenizer("hello there")["input_ids"])
    assert list(answer.embedding) == [3.0, count - 1, 4.0]  # what the fake engine tells
    assert (answer.usage.prompt_tokens, answer.usage.cached_prompt_tokens) == (count, 3)
    assert answer.adapter_digest == version.digest
    answer = await node.inference.Embed(
        pb.EmbedRequest(text="hello there", pooling=pb.POOLING_MEAN, normalize=True)
    )
    assert list(answer.embedding) == pytest.approx([0.6, 0.0, 0.8])
    assert answer.adapter == ""
    await node.idle()
    assert node.sample("lorry_requests_total", outcome="answered") == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (pb.EmbedRequest(), "PROMPT_MISSING"),
        (pb.EmbedRequest(text=""), "PROMPT_EMPTY"),
        (pb.EmbedRequest(tokens=ids(*[5] * 201)), "PROMPT_TOO_LONG"),
        (pb.EmbedRequest(tokens=ids(10**6)), "TOKEN_ID_OUT_OF_RANGE"),
        (pb.EmbedRequest(text="hi", pooling=7), "POOLING_INVALID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_embedded(node, bad, reason):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await node.inference.Embed(bad)
    assert explained(refused.value)[:2] == (INVALID, reason)
    assert not node.engine.submitted
    await node.inference.Embed(
        pb.EmbedRequest(tokens=ids(*[5] * 200))
    )  # all that the context holds


async def test_vectors_are_the_backbones_own(start_real, tiny, tokenizer):
    """Held against the last of transformers' `hidden_states`."""
    import torch

    text = "Once upon a time there was a river that ran over a stone"
    with torch.inference_mode():
        output = tiny().model(
            torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True
        )
    states = output.hidden_states[-1][0].float()
    async with start_real(max_batched_tokens=16) as node:
        last = await node.inference.Embed(pb.EmbedRequest(text=text))
        assert list(last.embedding) == pytest.approx(states[-1].tolist(), abs=1e-3)
        mean = await node.inference.Embed(pb.EmbedRequest(text=text, pooling=pb.POOLING_MEAN))
        assert list(mean.embedding) == pytest.approx(states.mean(0).tolist(), abs=1e-3)
