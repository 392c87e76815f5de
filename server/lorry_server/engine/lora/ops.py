"""The arithmetic of LoRA for a batch of tokens with different adapters: `y += (x @ a.T) @ b`, each with its own rows.

`add_lora` is the vectorised form: a sampled dense-dense product (each token against its own adapter's
rows) and a weighted sum of rows, so that no factor is copied and every adapter costs its own rank.
`add_lora_reference` says the same in a loop; kernels for other devices are held against it.
"""

from __future__ import annotations

import torch

from lorry_server.engine.lora.rows import RowPlan
from lorry_server.engine.lora.slots import LayerPool


def add_lora(
    y: torch.Tensor, x: torch.Tensor, pool: LayerPool, plan: RowPlan, *, scale: float = 1.0
) -> None:
    """Adds the adapters' part to `y` [num_tokens, out_features] in place, for `x` [num_tokens, in_features].

    With a `scale` of -1 it takes that part off.
    """
    for tokens, rows in plan.long_runs:
        shrunk = torch.mm(x[tokens], pool.a[rows].t())
        y[tokens].addmm_(shrunk, pool.b[rows], alpha=scale)
    gathered = plan.gathered
    if gathered is not None:
        n = gathered.num_rows
        shrunk = gathered.products(x[:n], pool.a, scale)
        y[:n].add_(gathered.sums(shrunk, pool.b))


def add_lora_reference(y: torch.Tensor, x: torch.Tensor, pool: LayerPool, plan: RowPlan) -> None:
    """The same, one token at a time."""
    for tokens, rows in plan.long_runs:
        for token in range(tokens.start, tokens.stop):
            y[token] += (pool.a[rows] @ x[token]) @ pool.b[rows]
    gathered = plan.gathered
    if gathered is not None:
        bounds = gathered.offsets.tolist()
        for token in range(gathered.num_rows):
            own = gathered.rows[bounds[token] : bounds[token + 1]]
            y[token] += (pool.a[own] @ x[token]) @ pool.b[own]
