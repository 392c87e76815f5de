"""Scores of continuations: one for each, told whole, and nothing that cannot be scored is begun."""

from __future__ import annotations

import grpc
import pytest

from lorry.inference.v1 import inference_service_pb2 as pb

from .conftest import explained, logprob_of

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def ids(*token_ids: int) -> pb.TokenPrompt:
    return pb.TokenPrompt(token_ids=token_ids)


def score(*continuations, prompt: str | None = "hello there", **options) -> pb.ScoreRequest:
    message = pb.ScoreRequest(**options)
    if prompt is not None:
        message.text = prompt
    for each in continuations:
        if isinstance(each, str):
            message.continuations.add(text=each)
        else:
            message.continuations.add(tokens=each)
    return message


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return explained(refused.value)


async def test_each_continuation_has_its_score(node, tokenizer):
    version = node.registry.publish("support")
    texts = [" and on", " over the river", " x"]
    answer = await node.inference.Score(score(*texts, ids(7, 8), adapter="support", logprobs=2))
    prompt = tokenizer("hello there")["input_ids"]
    spelled = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] + [[7, 8]]
    assert [list(each.prompt_token_ids) for each in node.engine.submitted] == [
        prompt + each for each in spelled
    ]
    for told, token_ids in zip(answer.scores, spelled, strict=True):
        assert [at.chosen.token_id for at in told.tokens] == token_ids
        assert told.logprob == pytest.approx(sum(map(logprob_of, token_ids)))
        assert all(len(at.top) == 2 for at in told.tokens)
        assert told.greedy  # the fake base finds what stands there the likeliest
    assert answer.usage.prompt_tokens == len(prompt) + sum(map(len, spelled))
    assert answer.adapter_digest == version.digest
    assert answer.adapter == f"default/support@{version.digest}"
    await node.idle()
    assert node.sample("lorry_requests_total", outcome="answered") == 1


async def test_continuations_share_the_prompt(node):
    await node.inference.Score(score(" a", " b", " c"))
    first, *others = node.engine.submitted
    assert first.follows is None
    assert {other.follows for other in others} == {first.request_id}
    assert {each.scores.first for each in node.engine.submitted} == {
        len(first.prompt_token_ids) - 1
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (score(" x", prompt=None), "PROMPT_MISSING"),
        (score(" x", prompt=""), "PROMPT_EMPTY"),
        (score(), "CONTINUATIONS_INVALID"),
        (score(*[" x"] * 65), "CONTINUATIONS_INVALID"),
        (score(" x", ""), "CONTINUATION_EMPTY"),
        (score(" x", ids()), "CONTINUATION_EMPTY"),
        (score(ids(5, 10**6)), "TOKEN_ID_OUT_OF_RANGE"),
        (score(ids(-1)), "TOKEN_ID_OUT_OF_RANGE"),
        (score(ids(*[5] * 200)), "PROMPT_TOO_LONG"),
        (score(" x", prompt="far too long " * 100), "PROMPT_TOO_LONG"),
        (score(" x", logprobs=-1), "LOGPROBS_INVALID"),
        (score(" x", logprobs=21), "LOGPROBS_INVALID"),
        (score(*[ids(*[5] * 190)] * 64, logprobs=20), "SCORES_TOO_MANY"),
        (score(" x", adapter="No Such/Reference"), "NAME_INVALID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_scored(node, bad, reason):
    code, given, _ = await refusal(node.inference.Score(bad))
    assert (code, given) == (INVALID, reason)
    assert not node.engine.submitted
    await node.inference.Score(score(" x"))


async def test_a_client_that_leaves_frees_every_continuation(start_node):
    async with start_node() as node:
        node.engine.paused.set()
        call = node.inference.Score(score(" a", " b", " c"))
        while len(node.engine.submitted) < 3:
            await node.inference.ListModels(pb.ListModelsRequest())
        call.cancel()
        await node.dispatcher.idle()
        assert len(set(node.engine.cancelled)) == 3


async def test_scores_are_those_of_a_plain_forward_pass(start_real, tiny, tokenizer, make_adapter):
    """Within 1e-3, on the bare base and with adapters, all in one batch with generation; and the second time too, when
    the prompt is in the cache."""
    import asyncio

    import torch
    from peft import PeftModel

    from lorry_bases.shapes import linear_shapes

    loaded = tiny()
    shapes = {path: shape for path, shape in linear_shapes(loaded.model).items() if "proj" in path}
    folders = {
        name: make_adapter(shapes, rank=4, seed=seed, size=0.1)
        for seed, name in enumerate(("one", "two"))
    }
    prompt = "Once upon a time there was a river that ran over a stone, and by it lived"
    texts = [" a fish", " nobody at all", " the king of all the stones"]
    prefix = tokenizer(prompt)["input_ids"]
    spelled = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    @torch.inference_mode()
    def plain(model) -> list[list[float]]:
        scores = []
        for continuation in spelled:
            logits = model(torch.tensor([prefix + continuation])).logits[0].float()
            rows = logits.log_softmax(-1)[len(prefix) - 1 : -1]
            scores.append(rows[range(len(continuation)), continuation].tolist())
        return scores

    right = {"": plain(loaded.model)}
    peft = PeftModel.from_pretrained(loaded.model, folders["one"], adapter_name="one")
    peft.load_adapter(folders["two"], adapter_name="two")
    for name in folders:
        peft.set_adapter(name)
        right[name] = plain(peft)
    assert right["one"][1] != pytest.approx(right[""][1], abs=0.05)

    async with start_real(max_batched_tokens=24, block_size=4) as node:
        for name, folder in folders.items():
            node.registry.publish(name, folder=folder)
        generating = pb.GenerateRequest(
            text="hello", sampling=pb.SamplingParameters(max_tokens=40, ignore_eos=True)
        )
        for _ in range(2):
            answers = await asyncio.gather(
                node.inference.GenerateUnary(generating),
                *(node.inference.Score(score(*texts, prompt=prompt, adapter=a)) for a in right),
            )
            for name, answer in zip(right, answers[1:], strict=True):
                for told, expected in zip(answer.scores, right[name], strict=True):
                    values = [at.chosen.logprob for at in told.tokens]
                    assert values == pytest.approx(expected, abs=1e-3)
                    assert told.logprob == pytest.approx(sum(expected), abs=1e-3 * len(expected))
        assert answers[1].usage.cached_prompt_tokens >= 3 * ((len(prefix) - 1) // 4 * 4)
        await node.dispatcher.idle()
