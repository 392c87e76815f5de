"""The smallest pair of factors for a change of weights, and what it loses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

EXACT = (
    1.0 - 1e-12
)  # of the energy: a relative error of 1e-6, which is what float32 factors can hold
_WHOLE = (
    1024  # up to this smaller side all singular values are computed; beyond, the largest ones alone
)
_MORE = 32  # singular values beyond those that may be kept, so that the last ones are right


@dataclass(frozen=True)
class Factors:
    a: torch.Tensor  # [rank, in_features] float32
    b: torch.Tensor  # [out_features, rank] float32
    error: float  # of b @ a against the change, in the Frobenius norm, relative

    @property
    def rank(self) -> int:
        return len(self.a)


def factorize(delta: torch.Tensor, *, max_rank: int, energy: float = EXACT) -> Factors:
    """Factors of the smallest rank, at most `max_rank`, that keep the share `energy` of the squared singular values.

    `delta` is [out_features, in_features] float64; one that is zero has rank 1, for a LoRA of rank 0 there is not.
    """
    u, s, v = _singular(delta, max_rank)
    total = delta.square().sum()
    lost = total - s.square().cumsum(0)
    enough = (lost <= (1.0 - energy) * total).nonzero()
    rank = min(max_rank, int(enough[0]) + 1 if len(enough) else len(s))
    root = s[:rank].sqrt()
    b = (u[:, :rank] * root).float().contiguous()
    a = (v[:, :rank] * root).T.float().contiguous()
    lost_norm = (delta - b.double() @ a.double()).norm()
    return Factors(a, b, float(lost_norm / total.sqrt()) if total else 0.0)


def _singular(
    delta: torch.Tensor, max_rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """u [out, n], s [n], v [in, n]."""
    side = min(delta.shape)
    if side <= _WHOLE or max_rank + _MORE >= side:
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        return u, s, vh.T
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same adapter gives the same bytes
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.svd_lowrank(
            delta, q=max_rank + _MORE, niter=6
        )
    return found
