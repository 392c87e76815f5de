"""Several adapters with weights, acting as one: as an object, and as one writes it on a line.

    composition = terms | method "(" terms { "," key "=" number } ")"
    terms       = term { "+" term }
    term        = reference [ "*" weight ]

`support*0.7+billing*0.3`, `a+b*-0.5`, `ties(a*0.7+b*0.3,density=0.5)`. A term without a weight has 1; the keys are
`density`, `seed` and `rank`. No reference has `*`, `+` or `(` in it, so one is never taken for the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from lorry_client.errors import InvalidArgument

if TYPE_CHECKING:
    from lorry.inference.v1 import composition_pb2 as pb

Method = Literal[
    "sum",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
METHODS: tuple[str, ...] = get_args(Method)

_CALL = re.compile(r"\s*(?P<method>\w+)\s*\((?P<inner>[^()]*)\)\s*")


@dataclass(frozen=True, slots=True)
class Composition:
    """Adapters by reference, each with its weight.

    Attributes:
        terms: the weight of each reference; `{"support": 0.7, "billing": 0.3}`.
        method: `sum`, the default, is exact; the others are PEFT's, `…_svd` on products and the rest on factors.
        density: the share of numbers that pruning keeps; for `ties`, `dare_…` and `magnitude_prune`.
        seed: of `dare_…`; the same seed gives the same adapter.
        rank: of what `svd` and `…_svd` leave; the largest among the terms where absent.
    """

    terms: Mapping[str, float]
    method: str = "sum"
    density: float | None = None
    seed: int | None = None
    rank: int | None = None


def is_expression(text: str) -> bool:
    """Whether a text names several adapters and is no reference."""
    return any(mark in text for mark in "*+(")


def parse(text: str) -> Composition:
    """Reads `a*0.7+b*0.3` or `ties(a*0.7+b*0.3,density=0.5)`."""
    call = _CALL.fullmatch(text)
    if call is None:
        return Composition(_terms(text, text))
    terms, *settings = call["inner"].split(",")
    return Composition(_terms(terms, text), call["method"], **_settings(settings, text))


def message(composition: Composition) -> pb.Composition:
    """As the contract has it."""
    from lorry.inference.v1 import composition_pb2 as pb
    from lorry_client._calls.requests import build

    if composition.method not in METHODS:
        raise InvalidArgument(
            f"{composition.method!r} is no method of composition; take one of {', '.join(METHODS)}.",
            reason="COMPOSITION_METHOD_INVALID",
            metadata={"method": composition.method},
        )
    return build(
        pb.Composition,
        terms=[
            build(pb.CompositionTerm, adapter=reference, weight=weight)
            for reference, weight in composition.terms.items()
        ],
        method=f"COMPOSITION_METHOD_{composition.method.upper()}",
        density=composition.density,
        seed=composition.seed,
        rank=composition.rank,
    )


def target(adapter: str | Composition | None) -> dict[str, Any]:
    """The one field of a request's `target` that is to be set; none for the bare base."""
    if adapter is None:
        return {}
    if adapter == "":  # a variable that nobody set, say; the contract takes it for the bare base
        raise InvalidArgument(
            "The adapter's reference is empty; leave it out to ask the bare base.",
            reason="EMPTY_REFERENCE",
        )
    if isinstance(adapter, str) and is_expression(adapter):
        adapter = parse(adapter)
    if isinstance(adapter, Composition):
        return {"composition": message(adapter)}
    return {"adapter": adapter}


def _terms(text: str, whole: str) -> dict[str, float]:
    terms: dict[str, float] = {}
    for part in text.split("+"):
        reference, star, weight = (each.strip() for each in part.partition("*"))
        if not reference or any(mark in reference for mark in "(),="):
            raise _bad(whole, "a term begins with an adapter's reference")
        if reference in terms:
            raise _bad(whole, f"{reference} stands there twice; add its weights up")
        terms[reference] = _number(weight, whole, float) if star else 1.0
    return terms


def _settings(parts: list[str], whole: str) -> dict[str, Any]:
    kinds = {"density": float, "seed": int, "rank": int}
    settings: dict[str, Any] = {}
    for part in parts:
        key, _, value = (each.strip() for each in part.partition("="))
        if key not in kinds or key in settings:
            raise _bad(whole, f"{key!r} is none of density=, seed= and rank=, each once")
        settings[key] = _number(value, whole, kinds[key])
    return settings


def _number(text: str, whole: str, kind: type[float] | type[int]) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise _bad(whole, f"{text!r} is no number of the kind that stands there") from error


def _bad(text: str, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"{text[:120]!r} is no composition: {rule}. Write a*0.7+b*0.3, or ties(a*0.7+b*0.3,density=0.5).",
        reason="COMPOSITION_INVALID",
    )
