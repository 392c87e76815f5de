"""Compositions as people write them, and as clients send them."""

from __future__ import annotations

from typing import Any

import pytest

import lorry_client
from lorry_client import AsyncClient, Client, Composition
from lorry_client.compositions import METHODS, is_expression, message, parse

from .test_cli import invoke


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("a*0.7+b*0.3", Composition({"a": 0.7, "b": 0.3})),
        ("a+ns/b:3*-0.5", Composition({"a": 1.0, "ns/b:3": -0.5})),
        (" a-b@x * 1e-3 + c_d.e ", Composition({"a-b@x": 0.001, "c_d.e": 1.0})),
        ("ties(a+b,density=0.5)", Composition({"a": 1, "b": 1}, "ties", density=0.5)),
        (
            "dare_ties_svd( a*2 + b , seed = 7, density=1, rank=4 )",
            Composition({"a": 2, "b": 1}, "dare_ties_svd", density=1, seed=7, rank=4),
        ),
    ],
)
def test_what_an_expression_means(text: str, means: Composition) -> None:
    assert is_expression(text)
    assert parse(text) == means


def test_no_reference_is_an_expression() -> None:
    references = ("intent", "ns/a-b_c.d", "a@production", "a:3", f"a@sha256:{'0' * 64}")
    assert not any(map(is_expression, references))


@pytest.mark.parametrize(
    "text",
    [
        *("a*", "a*x", "a**2", "+a", "a+", "a+a", "ties(a", "ties((a))"),
        *("ties(a,depth=1)", "ties(a,density=1,density=1)", "ties(a,rank=0.5)"),
    ],
)
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(lorry_client.InvalidArgument) as caught:
        parse(text)
    assert caught.value.reason == "COMPOSITION_INVALID"


def test_an_unknown_method_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(lorry_client.InvalidArgument, match="magnitude_prune") as caught:
        message(parse("average(a+b)"))
    assert caught.value.reason == "COMPOSITION_METHOD_INVALID"


def test_every_method_of_the_contract_has_its_name() -> None:
    from lorry.inference.v1 import composition_pb2 as pb

    names = {name.removeprefix("COMPOSITION_METHOD_") for name, _ in pb.CompositionMethod.items()}
    assert {name.lower() for name in names} - {"unspecified"} == set(METHODS)


async def test_both_clients_send_the_same(server: Any) -> None:
    sent = server.inference.requests
    said = Composition({"a": 0.7, "b": 0.3}, "ties", density=0.5)
    with Client() as client:
        client.generate("x", said)
        list(client.stream("x", "ties(a*0.7+b*0.3,density=0.5)"))
    async with AsyncClient() as client:
        await client.generate("x", said)
    assert [request.composition for request in sent] == [message(said)] * 3
    assert {request.WhichOneof("target") for request in sent} == {"composition"}


def test_the_command_line_sends_compositions(server: Any) -> None:
    sent = server.inference.requests
    assert invoke("generate", "x", "-a", "a*0.7+b*0.3").exit_code == 0
    assert sent[-1].composition == message(Composition({"a": 0.7, "b": 0.3}))
    options = ["--method", "ties", "--density", "0.5"]
    assert invoke("generate", "x", "-a", "a*0.7+b*0.3", *options).exit_code == 0
    assert sent[-1].composition == message(parse("ties(a*0.7+b*0.3,density=0.5)"))
    assert invoke("generate", "x", "-a", "a", "--method", "ties").exit_code == 2
    assert invoke("generate", "x", "--density", "0.5").exit_code == 2
    assert invoke("generate", "x", "-a", "a*?+b").exit_code == 4
