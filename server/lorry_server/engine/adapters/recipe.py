"""How several adapters become one: which, with what weights, by what method. A recipe's digest is its identity."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass


class Method(enum.Enum):
    """How a layer's updates are put together; the values are PEFT's `combination_type`, `sum` apart."""

    SUM = "sum"
    SVD = "svd"
    TIES = "ties"
    TIES_SVD = "ties_svd"
    DARE_LINEAR = "dare_linear"
    DARE_LINEAR_SVD = "dare_linear_svd"
    DARE_TIES = "dare_ties"
    DARE_TIES_SVD = "dare_ties_svd"
    MAGNITUDE_PRUNE = "magnitude_prune"
    MAGNITUDE_PRUNE_SVD = "magnitude_prune_svd"

    @property
    def prunes(self) -> bool:
        """Whether it keeps a share of the numbers alone."""
        return self not in (Method.SUM, Method.SVD)

    @property
    def is_random(self) -> bool:
        return self.value.startswith("dare")

    @property
    def on_products(self) -> bool:
        """Whether it works on whole matrices, from which an SVD takes factors of a chosen rank."""
        return self.value.endswith("svd")


@dataclass(frozen=True, slots=True)
class Term:
    """An adapter of a composition."""

    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """Values are taken as valid: the services check them. What a method does not ask for is None.

    The terms are in the order of their digests: a sum has no first and last, and where numbers are drawn at random
    the same recipe must draw the same.
    """

    terms: tuple[Term, ...]
    method: Method = Method.SUM
    density: float | None = None  # the share that pruning keeps, in (0, 1]
    seed: int | None = None
    rank: int | None = None  # of what an SVD leaves; None: the largest of the terms'

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(sorted(self.terms, key=lambda term: term.digest)))

    @property
    def digest(self) -> str:
        """`sha256:…` over everything that the numbers depend on."""
        said = {
            "composition": 1,  # the version of this form
            "terms": [[term.digest, float(term.weight)] for term in self.terms],
            "method": self.method.value,
            "density": self.density,
            "seed": self.seed,
            "rank": self.rank,
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
