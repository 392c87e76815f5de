"""Compositions as requests ask for them: held against the rules before anything is looked up.

Comparisons are written so that NaN fails them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorry.inference.v1 import composition_pb2 as pb
from lorry_registry.errors import InvalidArgument
from lorry_server.engine.adapters.recipe import Method, Recipe

MAX_TERMS = 32
MAX_WEIGHT = 1000.0

_METHODS = {pb.COMPOSITION_METHOD_UNSPECIFIED: Method.SUM} | {
    pb.CompositionMethod.Value(f"COMPOSITION_METHOD_{method.name}"): method for method in Method
}


@dataclass(frozen=True, slots=True)
class RequestedTerm:
    """A term by the name that the request gave it."""

    adapter: str
    weight: float


@dataclass(frozen=True, slots=True)
class RequestedComposition:
    """What a request asks for; what its method does not ask for is None."""

    terms: tuple[RequestedTerm, ...]
    method: Method
    density: float | None
    seed: int | None
    rank: int | None


def requested(message: pb.Composition) -> RequestedComposition:
    """Reads a request's composition. Raises InvalidArgument naming the value and the rule."""
    count = len(message.terms)
    if not 1 <= count <= MAX_TERMS:
        raise _invalid("terms", f"{count} adapters", f"1 to {MAX_TERMS} adapters")
    method = _METHODS.get(message.method)
    if method is None:
        raise _invalid("method", message.method, f"one of {', '.join(m.value for m in Method)}")
    _refuse_unused(message, method)
    return RequestedComposition(
        tuple(_term(term, index) for index, term in enumerate(message.terms)),
        method,
        _density(message, method),
        message.seed if method.is_random else None,
        _rank(message),
    )


def expression(recipe: Recipe, references: Mapping[str, str]) -> str:
    """`ns/a:3*0.7+ns/b:1*0.3`, or `ties(ns/a:3*0.7+ns/b:1*0.3,density=0.5)`, as clients read it.

    Args:
        references: by the terms' digests.
    """
    text = "+".join(f"{references[term.digest]}*{_short(term.weight)}" for term in recipe.terms)
    if recipe.method is Method.SUM:
        return text
    said = {"density": recipe.density, "seed": recipe.seed, "rank": recipe.rank}
    numbers = [f",{name}={_short(value)}" for name, value in said.items() if value is not None]
    return f"{recipe.method.value}({text}{''.join(numbers)})"


def namespaces_in(reference: str) -> set[str]:
    """Those of all adapters in a short reference or an expression of several."""
    return {term.partition("/")[0] for term in reference.rpartition("(")[2].split("+")}


def _short(number: float) -> str:
    """Reads as the very same number."""
    return repr(number).removesuffix(".0")


def _term(term: pb.CompositionTerm, index: int) -> RequestedTerm:
    weight = term.weight if term.HasField("weight") else 1.0
    if not term.adapter:
        raise _invalid(f"terms[{index}].adapter", "empty", "a reference")
    if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
        raise _invalid(
            f"terms[{index}].weight", weight, f"between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}"
        )
    return RequestedTerm(term.adapter, weight)


def _density(message: pb.Composition, method: Method) -> float | None:
    if not method.prunes:
        return None
    if not message.HasField("density"):
        raise InvalidArgument(
            f"{method.value} needs a density: the share of numbers that it keeps, above 0 and at most 1.",
            reason="COMPOSITION_DENSITY_MISSING",
            method=method.value,
        )
    if not 0.0 < message.density <= 1.0:
        raise _invalid("density", message.density, "above 0 and at most 1")
    return message.density


def _rank(message: pb.Composition) -> int | None:
    if not message.HasField("rank"):
        return None
    if message.rank < 1:
        raise _invalid("rank", message.rank, "at least 1")
    return message.rank


def _refuse_unused(message: pb.Composition, method: Method) -> None:
    used = {"density": method.prunes, "seed": method.is_random, "rank": method.on_products}
    for field, is_used in used.items():
        if message.HasField(field) and not is_used:
            raise InvalidArgument(
                f"The method {method.value} has no {field}; leave it out, or choose another method.",
                reason=f"COMPOSITION_{field.upper()}_UNUSED",
                method=method.value,
            )


def _invalid(field: str, value: object, rule: str) -> InvalidArgument:
    last = field.rpartition(".")[2].upper()
    return InvalidArgument(
        f"The composition's {field} is {value}; it must be {rule}.",
        reason=f"COMPOSITION_{last}_INVALID",
        field=field,
        value=value,
    )
