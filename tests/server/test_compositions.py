"""Compositions from the request to the answer: resolved, refused by name, known by their digest, seen by operators."""

from __future__ import annotations

import math
import time

import grpc
import pytest

from lorry.admin.v1 import admin_service_pb2 as admin_pb
from lorry.inference.v1 import composition_pb2
from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_server.engine.adapters.recipe import Method, Recipe, Term

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def composition(*terms: tuple[str, float | None], method: str = "", **numbers):
    return composition_pb2.Composition(
        terms=[
            composition_pb2.CompositionTerm(adapter=name, weight=weight) for name, weight in terms
        ],
        method=f"COMPOSITION_METHOD_{method.upper()}" if method else None,
        **numbers,
    )


def request(*terms: tuple[str, float | None], **how) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text="hello",
        composition=composition(*terms, **how),
        sampling=pb.SamplingParameters(max_tokens=2),
    )


AB = (("support", 0.7), ("billing", 0.3))


@pytest.fixture
def published(node):
    return {name: node.registry.publish(name) for name in ("support", "billing")}


async def test_the_answer_says_what_acted(node, published):
    answer = await node.inference.GenerateUnary(request(*AB))
    done = answer.completion
    recipe = Recipe(tuple(Term(published[name].digest, weight) for name, weight in AB))
    assert done.adapter_digest == recipe.digest
    assert [request.adapter for request in node.engine.submitted] == [recipe.digest]
    names = {version.digest: name for name, version in published.items()}
    assert [(term.digest, term.weight) for term in done.terms] == [
        (term.digest, term.weight) for term in recipe.terms
    ]
    assert done.adapter == "+".join(
        f"default/{names[term.digest]}@{term.digest}*{term.weight}" for term in recipe.terms
    )
    assert [term.adapter for term in done.terms] == [
        part.partition("*")[0] for part in done.adapter.split("+")
    ]


async def test_what_it_says_can_be_asked_for_again(node, published):
    """The expression in the answer means the same bytes for ever, also once the names mean others."""
    from lorry_client.compositions import message, parse

    for asked in (
        request(*AB),
        request(*AB, method="dare_ties", density=0.1 + 0.2, seed=2**63),
        request(("support", 1e-7), ("billing", -1 / 3), method="ties_svd", density=1, rank=4),
    ):
        first = (await node.inference.GenerateUnary(asked)).completion
        for name in published:
            node.registry.publish(name)
        again = pb.GenerateRequest(text="hello", composition=message(parse(first.adapter)))
        second = (await node.inference.GenerateUnary(again)).completion
        assert second.adapter_digest == first.adapter_digest
        assert second.adapter == first.adapter


async def test_an_alias_that_moves_makes_another_composition(node, published):
    first = (await node.inference.GenerateUnary(request(*AB))).completion.adapter_digest
    node.registry.publish("support")
    second = (await node.inference.GenerateUnary(request(*AB))).completion.adapter_digest
    assert first != second


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (request(), "COMPOSITION_TERMS_INVALID"),
        (request(("support", math.nan)), "COMPOSITION_WEIGHT_INVALID"),
        (request(("support", math.inf)), "COMPOSITION_WEIGHT_INVALID"),
        (request(("support", -1000.1)), "COMPOSITION_WEIGHT_INVALID"),
        (request(("", 1.0)), "COMPOSITION_ADAPTER_INVALID"),
        (request(("No Such/Reference", 1.0)), "NAME_INVALID"),
        (request(*AB, method="ties"), "COMPOSITION_DENSITY_MISSING"),
        (request(*AB, method="ties", density=0), "COMPOSITION_DENSITY_INVALID"),
        (request(*AB, method="ties", density=1.01), "COMPOSITION_DENSITY_INVALID"),
        (request(*AB, method="ties", density=math.nan), "COMPOSITION_DENSITY_INVALID"),
        (request(*AB, density=0.5), "COMPOSITION_DENSITY_UNUSED"),
        (request(*AB, seed=1), "COMPOSITION_SEED_UNUSED"),
        (request(*AB, method="ties", density=0.5, seed=1), "COMPOSITION_SEED_UNUSED"),
        (request(*AB, rank=4), "COMPOSITION_RANK_UNUSED"),
        (request(*AB, method="svd", rank=0), "COMPOSITION_RANK_INVALID"),
        (request(("support", 0.5), ("support:1", 0.5)), "COMPOSITION_DUPLICATE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_wrong_compositions(node, published, bad, reason):
    code, given, _ = await node.refusal(bad)
    assert (code, given) == (INVALID, reason)
    assert not node.engine.submitted
    await node.generate(request(*AB))
    await node.idle()


async def test_an_unknown_method(node, published):
    bad = request(*AB)
    bad.composition.method = 99
    assert (await node.refusal(bad))[:2] == (INVALID, "COMPOSITION_METHOD_INVALID")


async def test_ten_thousand_terms_are_answered_at_once(node, published):
    """Before a single one is looked up."""
    started = time.monotonic()
    code, reason, metadata = await node.refusal(request(*[("support", 0.1)] * 10_000))
    assert (code, reason) == (INVALID, "COMPOSITION_TERMS_INVALID")
    assert metadata["value"] == "10000 adapters"
    assert node.registry.resolves == 0
    assert time.monotonic() - started < 5


async def test_adapters_of_two_bases_are_refused(node, published):
    node.registry.publish("foreign", base="sha256:" + "f" * 64)
    code, reason, metadata = await node.refusal(request(("support", 0.5), ("foreign", 0.5)))
    assert (code, reason) == (PRECONDITION, "ADAPTER_BASE_MISMATCH")
    assert metadata["adapter"].startswith("default/foreign@")


async def test_an_absent_term_is_named(node, published):
    code, reason, _ = await node.refusal(request(("support", 0.5), ("nobody", 0.5)))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")


async def test_without_the_registry_a_composition_keeps_its_meaning(node, published):
    before = (await node.inference.GenerateUnary(request(*AB))).completion
    node.registry.away = True
    after = (await node.inference.GenerateUnary(request(*AB))).completion
    assert after.adapter == before.adapter


async def test_every_method_makes_another_digest(node, published):
    digests = set()
    for method in Method:
        numbers = {"density": 0.5} if method.prunes else {}
        answer = await node.inference.GenerateUnary(request(*AB, method=method.value, **numbers))
        digests.add(answer.completion.adapter_digest)
    assert len(digests) == len(Method)


async def test_operators_see_and_move_compositions(node, published):
    loaded = await node.admin.LoadAdapter(
        admin_pb.LoadAdapterRequest(composition=composition(*AB), pin=True)
    )
    (name,) = loaded.references
    assert sorted(name.split("+")) == ["default/billing:1*0.3", "default/support:1*0.7"]
    (listed,) = [
        resident
        for resident in (await node.admin.ListResidents(admin_pb.ListResidentsRequest())).residents
        if resident.tier == admin_pb.TIER_SLOT
    ]
    assert (listed.digest, list(listed.references)) == (loaded.digest, [name])
    await node.generate(request(*AB))
    await node.idle()
    assert (
        node.sample("lorry_adapter_requests_total", adapter=loaded.digest[:19], reference=name)
        == 1.0
    )
    # In memory a composition is known by its digest.
    unpinned = admin_pb.PinAdapterRequest(adapter=loaded.digest, pinned=False)
    assert not (await node.admin.PinAdapter(unpinned)).pinned
    gone = await node.admin.UnloadAdapter(admin_pb.UnloadAdapterRequest(adapter=loaded.digest))
    assert gone.digest == loaded.digest
