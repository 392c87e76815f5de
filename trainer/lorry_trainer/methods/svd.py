"""The best low-rank stand-in for a change of weights: a truncated singular value decomposition (Eckart–Young)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Truncated:
    a: torch.Tensor  # [rank, in]
    b: torch.Tensor  # [out, rank]
    kept: float  # squared Frobenius norm of b @ a
    total: float  # squared Frobenius norm of the whole change


def truncate(delta: torch.Tensor, rank: int) -> Truncated:
    """`delta` [out, in] as `b @ a` of `rank`, each factor with the square roots of the singular values. Where the
    matrix has no such rank, the factors are filled up with zeros."""
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    some = min(rank, len(s))
    root = s[:some].sqrt()
    a = torch.zeros(rank, delta.shape[1], dtype=torch.float32, device=delta.device)
    b = torch.zeros(delta.shape[0], rank, dtype=torch.float32, device=delta.device)
    a[:some] = (root[:, None] * v[:some]).float()
    b[:, :some] = (u[:, :some] * root).float()
    return Truncated(a, b, float(s[:some].square().sum()), float(s.square().sum()))
