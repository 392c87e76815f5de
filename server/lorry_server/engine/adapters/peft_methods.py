"""Compositions that are not sums, by PEFT's own functions and in the way of its `LoraModel.add_weighted_adapter`.

On the factors (`ties`, `dare_linear`, …) each of the two is merged by itself, with the square root of the weight: that
is what PEFT does, and it is no weighted sum. On the products (`…_svd`) the matrices are merged, and an SVD takes the
factors out of what comes of it.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence

import torch

from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters.recipe import Method, Recipe
from lorry_server.engine.adapters.weights import LinearUpdate

Factors = list[tuple[torch.Tensor, torch.Tensor, float]]  # a, b, weight


def merge(
    recipe: Recipe,
    path: str,
    updates: Sequence[tuple[LinearUpdate, float]],
    scalings: Sequence[float],
) -> LinearUpdate:
    """One layer's updates as one, in float32. `scalings` are LoRA's own, which are in each update's `b`.

    Raises FailedPrecondition where an update is more than LoRA, or the ranks differ where they must not.
    """
    factors = [_factors(recipe, path, update, weight) for update, weight in updates]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, that a density of 1 prunes nothing
        torch.manual_seed(_seed(recipe, path))
        if recipe.method.on_products:
            return _on_products(recipe, factors)
        return _on_factors(recipe, path, factors, scalings)


def _on_products(recipe: Recipe, factors: Factors) -> LinearUpdate:
    rank = recipe.rank or max(len(a) for a, _, _ in factors)
    if recipe.method is Method.SVD:
        # The sum is a product of thin factors, and its SVD that of a small matrix between them: no large one is made.
        u_in, r_in = torch.linalg.qr(torch.cat([a for a, _, _ in factors]).double().t())
        scaled = [b.double() * weight for _, b, weight in factors]
        u_out, r_out = torch.linalg.qr(torch.cat(scaled).t())
        u, s, vh = torch.linalg.svd(r_out @ r_in.t(), full_matrices=False)
        u, vh = u_out @ u, vh @ u_in.t()
    else:
        products = [(a.t() @ b).t() for a, b, _ in factors]  # [out_features, in_features]
        merged = _merge(recipe, products, [weight for _, _, weight in factors])
        u, s, vh = torch.linalg.svd(merged.double(), full_matrices=False)
    a = vh[:rank].float().contiguous()
    return LinearUpdate(a, (u[:, :rank] * s[:rank]).t().float().contiguous())


def _on_factors(
    recipe: Recipe, path: str, factors: Factors, scalings: Sequence[float]
) -> LinearUpdate:
    ranks = [len(a) for a, _, _ in factors]
    if len(set(ranks)) > 1:
        raise FailedPrecondition(
            f"{recipe.method.value} works on the factors, and the adapters have the ranks "
            f"{', '.join(map(str, sorted(set(ranks))))} in {path}; take {recipe.method.value}_svd, or the sum.",
            reason="COMPOSITION_RANKS_DIFFER",
            module=path,
            method=recipe.method.value,
        )
    # As PEFT has them: the factors as they were trained, each with the root of weight and scaling.
    shares = [weight * scale for (_, _, weight), scale in zip(factors, scalings, strict=True)]
    roots = [math.sqrt(abs(share)) for share in shares]
    signed = [math.copysign(root, share) for root, share in zip(roots, shares, strict=True)]
    trained = [
        b / scale if scale else b for (_, b, _), scale in zip(factors, scalings, strict=True)
    ]
    a = _merge(recipe, [a for a, _, _ in factors], signed)
    return LinearUpdate(a, _merge(recipe, trained, roots))


def _merge(recipe: Recipe, tensors: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    from peft.utils import merge_utils  # takes seconds to import, and most servers never ask for it

    method = getattr(merge_utils, recipe.method.value.removesuffix("_svd"))
    return torch.as_tensor(method(tensors, torch.tensor(weights), recipe.density))


def _factors(
    recipe: Recipe, path: str, update: LinearUpdate, weight: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    if update.a is None or update.b is None or update.has_vectors:
        raise _more_than_lora(recipe, path)
    return update.a.float(), update.b.float(), weight


def refuse_beside_linears(recipe: Recipe, paths: Sequence[str]) -> None:
    """Raises FailedPrecondition where an adapter changes anything but linear layers."""
    for path in paths:
        raise _more_than_lora(recipe, path)


def _more_than_lora(recipe: Recipe, path: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{recipe.method.value} merges low-rank factors of linear layers, and an adapter does more in {path}: "
        "take the sum, which is exact for every kind.",
        reason="COMPOSITION_METHOD_KIND",
        module=path,
        method=recipe.method.value,
    )


def _seed(recipe: Recipe, path: str) -> int:
    """Each layer draws numbers of its own: what is drawn for one does not depend on which others there are."""
    said = f"{recipe.seed or 0}:{path}".encode()
    return int.from_bytes(hashlib.sha256(said).digest()[:8], "big", signed=True)
