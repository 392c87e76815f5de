"""Scores, embeddings and several answers, through both clients and the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorry_client
from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_client import AsyncClient, Client


@pytest.fixture
def client(server: Any) -> Any:
    with Client() as connected:
        yield connected


def both(method: str, *arguments: Any, **options: Any) -> list[Any]:
    """What both clients answer."""

    async def awaited() -> Any:
        async with AsyncClient() as client:
            return await getattr(client, method)(*arguments, **options)

    with Client() as client:
        return [getattr(client, method)(*arguments, **options), asyncio.run(awaited())]


def test_scores(server: Any) -> None:
    for scored in both("score", "p", [" yes", " x", [4, 5, 6]], "intent", logprobs=3):
        assert [one.logprob for one in scored.scores] == [-4.0, -2.0, -3.0]
        assert scored.best == 1
        assert scored.scores[0].mean_logprob == -1.0
        assert [one.chosen.token_id for one in scored.scores[2].tokens] == [0, 1, 2]
        assert scored.adapter is None
        assert scored.usage.prompt_tokens == 9
    sent = server.inference.requests[-1]
    assert (sent.text, sent.adapter, sent.logprobs) == ("p", "intent", 3)
    assert sent.continuations[2].tokens.token_ids == [4, 5, 6]


def test_embeddings(server: Any) -> None:
    for embedding in both("embed", [1, 2], "intent", pooling="mean", normalize=True):
        assert embedding.vector == (0.5, -0.25)
        assert embedding.adapter == "intent"
    sent = server.inference.requests[-1]
    assert (sent.pooling, sent.normalize) == (pb.POOLING_MEAN, True)
    with Client() as client, pytest.raises(lorry_client.InvalidArgument, match="sideways"):
        client.embed("x", pooling="sideways")  # type: ignore[arg-type]


def test_labels(server: Any, lorry: Callable[..., Any]) -> None:
    for told in both("classify", "p", "intent"):
        assert told.best == 1
        assert [label.logit for label in told.labels] == [0.5, 2.0, -1.0]
        assert told.adapter == "intent"
        assert {label.name for label in told.labels} == {None}
    done = lorry("classify", "p", "-a", "intent")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["1", "0", "2"]
    assert lorry("classify", "p").returncode == 2


def test_labels_with_names(server: Any, lorry: Callable[..., Any]) -> None:
    for told in both("classify", "p", "named"):
        assert [label.name for label in told.labels] == ["low", "high", "none"]
    done = lorry("classify", "p", "-a", "named")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["high", "low", "none"]
    told = json.loads(lorry("classify", "p", "-a", "named", "--json").stdout)
    assert [(label["index"], label["name"]) for label in told["labels"]] == [
        (0, "low"),
        (1, "high"),
        (2, "none"),
    ]


def test_forms(client: Client, server: Any, lorry: Callable[..., Any], tmp_path: Path) -> None:
    client.generate("x", json_schema={"type": "string"})
    assert server.inference.requests[-1].sampling.json_schema == '{"type": "string"}'
    client.generate("x", regex="a+")
    assert server.inference.requests[-1].sampling.WhichOneof("form") == "regex"
    with pytest.raises(lorry_client.InvalidArgument, match="one form"):
        client.generate("x", regex="a+", grammar="start: A")
    grammar = tmp_path / "sum.lark"
    grammar.write_text('start: "a"')
    assert lorry("generate", "x", "--grammar", f"@{grammar}").returncode == 0
    assert server.inference.requests[-1].sampling.grammar == 'start: "a"'
    assert lorry("generate", "x", "--json-schema", "@/no/such/file").returncode == 2


def test_several_answers(server: Any) -> None:
    for done in both("generate", "one", n=3, temperature=1.0):
        assert [other.text for other in done.alternatives] == ["one 1", "one 2"]
        assert done.text == "one"


def test_every_option_of_sampling_is_sent(client: Client, server: Any) -> None:
    client.generate(
        "x",
        min_p=0.5,
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        logit_bias={3: 1.5},
        bad_words=["no"],
        bad_token_sequences=[[1, 2]],
        min_tokens=2,
        prompt_logprobs=1,
        n=2,
        best_of=4,
    )
    sampling = server.inference.requests[-1].sampling
    assert (sampling.min_p, sampling.repetition_penalty) == (0.5, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.5)
    assert dict(sampling.logit_bias) == {3: 1.5}
    assert (list(sampling.bad_words), sampling.min_tokens) == (["no"], 2)
    assert sampling.bad_token_sequences[0].token_ids == [1, 2]
    assert (sampling.prompt_logprobs, sampling.n, sampling.best_of) == (1, 2, 4)


def test_on_the_command_line(server: Any, lorry: Callable[..., Any]) -> None:
    done = lorry("score", "p", " yes", " x", "-a", "intent")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["-2.0000", "-1.0000", "2"]
    assert json.loads(lorry("score", "p", " yes", "--json").stdout)["scores"][0]["logprob"] == -4
    assert lorry("embed", "p", "--pooling", "mean").stdout == "0.5 -0.25\n"
    assert lorry("embed", "p", "--pooling", "sideways").returncode == 4
    several = lorry("generate", "one", "-n", "2", "--temperature", "1", "--logit-bias", "3=-1.5")
    assert (several.returncode, several.stdout) == (0, "one\none 1\n")
    assert dict(server.inference.requests[-1].sampling.logit_bias) == {3: -1.5}
    assert lorry("generate", "one", "--logit-bias", "3").returncode == 2
