"""Several answers to one request: each its own, by index; the best of more; and what was asked of the prompt."""

from __future__ import annotations

from collections import defaultdict

import pytest

from lorry.inference.v1 import inference_service_pb2 as pb

from .conftest import logprob_of

LENGTH = pb.FINISH_REASON_LENGTH


def request(text: str = "hello there", **sampling) -> pb.GenerateRequest:
    sampling = {"ignore_eos": True, "temperature": 1.0, "seed": 11, "max_tokens": 12, **sampling}
    return pb.GenerateRequest(text=text, sampling=pb.SamplingParameters(**sampling))


def by_index(deltas) -> dict[int, list[pb.GenerateResponse]]:
    answers = defaultdict(list)
    for delta in deltas:
        answers[delta.index].append(delta)
    return dict(answers)


def joined(deltas) -> tuple[str, list[int]]:
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    return "".join(delta.text for delta in deltas), ids


def unary_answers(answer: pb.GenerateResponse) -> list[pb.GenerateResponse]:
    return [answer, *answer.alternatives]


async def test_each_answer_streams_under_its_index_and_is_the_unary_one(node):
    answers = by_index(await node.generate(request(n=4)))
    unary = unary_answers(await node.inference.GenerateUnary(request(n=4)))
    assert sorted(answers) == [0, 1, 2, 3] == [answer.index for answer in unary]
    for index, deltas in answers.items():
        assert joined(deltas) == (unary[index].text, list(unary[index].token_ids))
        assert [delta.HasField("completion") for delta in deltas[:-1]] == [False] * (
            len(deltas) - 1
        )
        done = deltas[-1].completion
        assert (done.finish_reason, done.usage.completion_tokens) == (LENGTH, 12)
        assert not done.HasField("mean_logprob")
    assert len({tuple(answer.token_ids) for answer in unary}) == 4
    await node.idle()


async def test_the_first_answer_is_the_only_one_of_n_1(node):
    alone = await node.inference.GenerateUnary(request())
    several = await node.inference.GenerateUnary(request(n=3))
    assert alone.token_ids == several.token_ids
    assert not alone.alternatives


async def test_answers_share_the_prompt_that_the_first_computes(node):
    await node.generate(request(n=3))
    first, *others = node.engine.submitted
    assert first.follows is None
    assert {other.follows for other in others} == {first.request_id}
    assert len({each.sampling.seed for each in node.engine.submitted}) == 3


async def test_best_of_gives_the_likeliest_of_all(node):
    """By the mean of the log-probabilities of their tokens; the client asked for none, and gets none."""
    all_of_them = unary_answers(await node.inference.GenerateUnary(request(n=8)))
    means = [
        sum(map(logprob_of, answer.token_ids)) / len(answer.token_ids) for answer in all_of_them
    ]
    ranked = sorted(range(8), key=lambda index: -means[index])
    best = unary_answers(await node.inference.GenerateUnary(request(n=3, best_of=8)))
    assert [list(answer.token_ids) for answer in best] == [
        list(all_of_them[index].token_ids) for index in ranked[:3]
    ]
    assert [answer.completion.mean_logprob for answer in best] == pytest.approx(
        [means[index] for index in ranked[:3]]
    )
    assert not any(answer.logprobs for answer in best)
    streamed = by_index(await node.generate(request(n=3, best_of=8)))
    assert [joined(streamed[index])[1] for index in range(3)] == [list(b.token_ids) for b in best]
    await node.idle()


async def test_a_stop_string_ends_one_answer_and_not_the_others(node, tokenizer):
    plain = unary_answers(await node.inference.GenerateUnary(request(n=3, max_tokens=30)))
    stop = plain[1].text[4:7]
    answers = unary_answers(
        await node.inference.GenerateUnary(request(n=3, max_tokens=30, stop=[stop]))
    )
    for with_stop, without in zip(answers, plain, strict=True):
        cut = without.text.find(stop)
        if cut < 0:
            assert with_stop.text == without.text
            assert with_stop.completion.finish_reason == LENGTH
        else:
            assert with_stop.text == without.text[:cut]
            assert with_stop.completion.stop == stop
    assert answers[1].completion.finish_reason == pb.FINISH_REASON_STOP
    await node.idle()


async def test_prompt_logprobs_are_those_of_every_token_but_the_first(node):
    answer = await node.inference.GenerateUnary(request(prompt_logprobs=2))
    prompt = node.engine.submitted[-1].prompt_token_ids
    assert [at.chosen.token_id for at in answer.prompt_logprobs] == list(prompt[1:])
    assert [at.chosen.logprob for at in answer.prompt_logprobs] == [
        logprob_of(token_id) for token_id in prompt[1:]
    ]
    assert all(len(at.top) == 2 for at in answer.prompt_logprobs)
    assert not answer.logprobs
    deltas = await node.generate(request(prompt_logprobs=2))
    assert len(deltas[0].prompt_logprobs) == len(prompt) - 1


@pytest.mark.parametrize("options", [{"n": 3}, {"best_of": 4}])
async def test_prompt_logprobs_come_once_whatever_the_number_of_answers(node, options):
    answers = unary_answers(
        await node.inference.GenerateUnary(request(prompt_logprobs=0, **options))
    )
    prompt = node.engine.submitted[-1].prompt_token_ids
    assert [len(answer.prompt_logprobs) for answer in answers] == [len(prompt) - 1] + [0] * (
        len(answers) - 1
    )


async def test_an_answer_that_fails_ends_them_all(start_node):
    async with start_node(step_seconds=0.005) as node:
        call = node.inference.GenerateUnary(request(n=4, max_tokens=150))
        while node.engine.stats().running < 4:
            await node.inference.ListModels(pb.ListModelsRequest())
        node.engine.broken_by = RuntimeError("the device is gone")
        assert (await call.code()).name == "UNAVAILABLE"
        await node.idle()
        assert node.sample("lorry_requests_total", outcome="error") == 1


async def test_a_client_that_vanishes_frees_all_its_answers(start_node):
    async with start_node(step_seconds=0.005) as node:
        call = node.inference.Generate(request(n=5, max_tokens=150))
        await call.read()
        call.cancel()
        await node.idle()
        assert len(set(node.engine.cancelled)) == 5
        assert node.sample("lorry_requests_total", outcome="cancelled") == 1


async def test_what_changes_the_logits_reaches_the_engine(node, tokenizer):
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    await node.generate(
        request(
            min_p=0.25,
            repetition_penalty=1.5,
            presence_penalty=-1.0,
            frequency_penalty=0.5,
            logit_bias={9: 1.5, 4: -2.0},
            bad_words=["river"],
            bad_token_sequences=[pb.TokenPrompt(token_ids=[7, 8])],
            min_tokens=3,
        )
    )
    sampling = node.engine.submitted[-1].sampling
    assert (sampling.min_p, sampling.repetition_penalty) == (0.25, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1.0, 0.5)
    assert sampling.logit_bias == ((4, -2.0), (9, 1.5))
    assert set(sampling.bad_words) == {ids("river"), ids(" river"), (7, 8)}
    assert sampling.min_tokens == 3
