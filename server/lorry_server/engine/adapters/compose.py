"""Several adapters as one. The sum is exact: every form is additive, so each field is summed by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch

from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters import peft_methods
from lorry_server.engine.adapters.recipe import Method, Recipe
from lorry_server.engine.adapters.weights import (
    AdapterWeights,
    EmbeddingUpdate,
    LinearUpdate,
    RowsUpdate,
)

_ADDITIVE = ("linears", "embeddings", "parameters")
_NO_PARTS = ("allow_no_effect", "scalings")  # they add nothing

_T = TypeVar("_T")
_Update = TypeVar("_Update", LinearUpdate, EmbeddingUpdate)
Weighted = Sequence[tuple[_T, float]]  # what each of some adapters has, with the adapter's weight


def compose(
    recipe: Recipe, adapters: Sequence[AdapterWeights], max_rank: int, dtype: torch.dtype
) -> AdapterWeights:
    """The composition of `adapters`, which are the recipe's terms in their order, in float32.

    The result is in `dtype`. Raises FailedPrecondition where an adapter has something that cannot be added or that the
    method cannot take, or where more rank would come of them than a slot has.
    """
    weights = [term.weight for term in recipe.terms]
    _refuse_what_adds_nothing(recipe, adapters)

    def gather(of: Callable[[AdapterWeights], Mapping[str, _T]]) -> dict[str, Weighted[_T]]:
        """By path: what each adapter has there."""
        paths = dict.fromkeys(path for adapter in adapters for path in of(adapter))
        return {
            path: [
                (of(a)[path], w) for a, w in zip(adapters, weights, strict=True) if path in of(a)
            ]
            for path in paths
        }

    linears = gather(lambda adapter: adapter.linears)
    embeddings = gather(lambda adapter: adapter.embeddings)
    parameters = gather(lambda adapter: adapter.parameters)
    if recipe.method is not Method.SUM:
        peft_methods.refuse_beside_linears(recipe, [*embeddings, *parameters])
        # Of a layer that every adapter has not, the scalings are those of the adapters that have it.
        scalings = gather(
            lambda adapter: {p: adapter.scalings.get(p, 1.0) for p in adapter.linears}
        )
        merged = {
            path: peft_methods.merge(recipe, path, each, [scale for scale, _ in scalings[path]])
            for path, each in linears.items()
        }
    else:
        merged = {path: add_linears(each) for path, each in linears.items()}
    for path, update in merged.items():
        _check_rank(update.rank, path, recipe, max_rank)
    return AdapterWeights(
        {path: _cast(update, dtype) for path, update in merged.items()},
        {path: _cast(add_embeddings(each), dtype) for path, each in embeddings.items()},
        {path: _sum(each).to(dtype) for path, each in parameters.items()},
    )


def add_linears(updates: Weighted[LinearUpdate]) -> LinearUpdate:
    """The weighted sum, in float32: low-rank factors lie side by side, the weight in `b`."""
    factors = [(u.a, u.b, w) for u, w in updates if u.a is not None and u.b is not None]
    a, b = _side_by_side(factors) if factors else (None, None)
    return LinearUpdate(
        a,
        b,
        _total((update.in_delta, weight) for update, weight in updates),
        _total((update.out_delta, weight) for update, weight in updates),
        _total((update.bias, weight) for update, weight in updates),
        _total((update.weight, weight) for update, weight in updates),
        _all_rows([(update.rows, weight) for update, weight in updates]),
    )


def add_embeddings(updates: Weighted[EmbeddingUpdate]) -> EmbeddingUpdate:
    """As `add_linears`."""
    # An embedding is a linear layer over one-hot tokens, and its factors lie the other way round.
    factors = [(u.a.t(), u.b, w) for u, w in updates if u.a is not None and u.b is not None]
    a, b = _side_by_side(factors) if factors else (None, None)
    return EmbeddingUpdate(
        None if a is None else a.t().contiguous(),
        b,
        _total((update.out_delta, weight) for update, weight in updates),
        _total((update.weight, weight) for update, weight in updates),
        _all_rows([(update.rows, weight) for update, weight in updates]),
    )


def _side_by_side(
    factors: Sequence[tuple[torch.Tensor, torch.Tensor, float]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors [rank, in_features] and [rank, out_features] whose product is the weighted sum of the products."""
    a = torch.cat([a for a, _, _ in factors])
    b = torch.cat([b.double() * weight for _, b, weight in factors])
    num_in, num_out = a.shape[1], b.shape[1]
    if len(a) <= min(num_in, num_out):
        return a, b.float()
    # No matrix has more rank than its smaller side: with the identity for one factor, the product is the other.
    product = a.double().t() @ b  # [in_features, out_features]
    if num_in <= num_out:
        return torch.eye(num_in), product.float()
    return product.t().float().contiguous(), torch.eye(num_out)


def _total(parts: Iterable[tuple[torch.Tensor | None, float]]) -> torch.Tensor | None:
    present = [(part, weight) for part, weight in parts if part is not None]
    return _sum(present) if present else None


def _sum(parts: Weighted[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(parts[0][0], dtype=torch.float64)
    for part, weight in parts:
        total.add_(part, alpha=weight)
    return total.float()


def _all_rows(parts: Weighted[RowsUpdate | None]) -> RowsUpdate | None:
    """The union of the rows; those that several adapters change are summed."""
    present = [(rows, weight) for rows, weight in parts if rows is not None]
    if not present:
        return None
    indices = torch.cat([rows.indices for rows, _ in present])
    deltas = torch.cat([rows.delta.double() * weight for rows, weight in present])
    union, place = torch.unique(indices, return_inverse=True)
    summed = deltas.new_zeros(len(union), deltas.shape[1]).index_add_(0, place, deltas)
    return RowsUpdate(union, summed.float())


def _cast(update: _Update, dtype: torch.dtype) -> _Update:
    parts: dict[str, Any] = {each.name: getattr(update, each.name) for each in fields(update)}
    for name, part in parts.items():
        if isinstance(part, RowsUpdate):
            parts[name] = RowsUpdate(part.indices, part.delta.to(dtype))
        elif part is not None:
            parts[name] = part.to(dtype)
    return type(update)(**parts)


def _refuse_what_adds_nothing(recipe: Recipe, adapters: Sequence[AdapterWeights]) -> None:
    for term, adapter in zip(recipe.terms, adapters, strict=True):
        for part in fields(adapter):
            known = part.name in (*_ADDITIVE, *_NO_PARTS)
            if not known and getattr(adapter, part.name):
                raise FailedPrecondition(
                    f"Adapter {term.digest} is of a kind that adds to no weight of the base ({part.name}), so it has "
                    "no place in a composition. Leave it out, or ask it alone.",
                    reason="COMPOSITION_KIND",
                    digest=term.digest,
                    part=part.name,
                )


def _check_rank(rank: int, path: str, recipe: Recipe, max_rank: int) -> None:
    if rank <= max_rank:
        return
    way_out = (
        f"compose fewer adapters or such of lower rank, take the method svd with rank {max_rank}, or start it with "
        f"--max-rank {rank}"
        if recipe.method is Method.SUM
        else f"ask for rank {max_rank} or less, or start it with --max-rank {rank}"
    )
    raise FailedPrecondition(
        f"The composition has rank {rank} in {path}; this server takes at most {max_rank}: {way_out}.",
        reason="RANK_ABOVE_CAP",
        module=path,
        rank=rank,
        max_rank=max_rank,
    )
