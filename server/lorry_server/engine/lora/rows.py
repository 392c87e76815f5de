"""Which rows of a layer's pool act on which tokens of a step.

The tokens of a step stand in runs of one adapter each. A long run (a prefill chunk) is worth a matrix product of its
own; the short ones (decoding sequences) go together, whatever their adapters and ranks, as one sparse product in which
each token meets its own adapter's rows and no others. That plan depends on a layer only by the ranks that the adapters
have in it, so layers that the same adapters target alike share one.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch

from lorry_server.engine.lora.slots import Ranks

LONG_RUN = (
    16  # tokens; below it the overhead of two small matrix products outweighs them (measured, CPU)
)


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens `[start, end)` of a step, all of one adapter."""

    start: int
    end: int
    slot: int


@dataclass(frozen=True, slots=True)
class GatheredRows:
    """The short runs: token `t` of the first `num_tokens` meets `rows[offsets[t] : offsets[t + 1]]`."""

    num_tokens: int
    offsets: torch.Tensor  # [num_tokens + 1] int64
    rows: torch.Tensor  # [nnz] int64, rows of the pool
    pattern: torch.Tensor  # the same as a sparse matrix of zeros, [num_tokens, pool rows]


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What one layer has to do in a step."""

    long_runs: tuple[tuple[slice, slice], ...]  # (tokens, rows of the pool)
    gathered: GatheredRows | None


class StepRows:
    """The runs of a step, and the plans made from them."""

    def __init__(self, runs: Items[Run], max_rank: int, num_slots: int) -> None:
        self.runs = merge(runs)
        self._slots = {run.slot for run in self.runs}
        self._max_rank = max_rank
        self._pool_rows = num_slots * max_rank
        self._plans: dict[Ranks, RowPlan | None] = {}

    def plan(self, ranks: Ranks) -> RowPlan | None:
        """The plan for a layer in which the resident adapters have these ranks.

        None where no adapter of this step targets the layer.
        """
        try:
            return self._plans[ranks]
        except KeyError:
            plan = self._plans[ranks] = self._make(dict(ranks))
            return plan

    def _make(self, ranks: dict[int, int]) -> RowPlan | None:
        long_runs: list[tuple[slice, slice]] = []
        short: list[tuple[Run, int]] = []
        for run in self.runs:
            rank = ranks.get(run.slot)
            if rank is None:
                continue
            if run.end - run.start >= LONG_RUN:
                first = run.slot * self._max_rank
                long_runs.append((slice(run.start, run.end), slice(first, first + rank)))
            else:
                short.append((run, rank))
        if not long_runs and not short:
            return None
        return RowPlan(tuple(long_runs), self._gather(short) if short else None)

    def _gather(self, short: list[tuple[Run, int]]) -> GatheredRows:
        num_tokens = short[-1][0].end
        counts = np.zeros(num_tokens, dtype=np.int64)
        rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        for run, rank in short:
            counts[run.start : run.end] = rank
            first = run.slot * self._max_rank
            own = np.arange(first, first + rank, dtype=np.int64)
            rows.append(own if run.end - run.start == 1 else np.tile(own, run.end - run.start))
        offsets = torch.from_numpy(np.concatenate(([0], np.cumsum(counts))))
        columns = torch.from_numpy(np.concatenate(rows))
        pattern = torch.sparse_csr_tensor(
            offsets,
            columns,
            torch.zeros(len(columns)),
            size=(num_tokens, self._pool_rows),
            check_invariants=False,
        )
        return GatheredRows(num_tokens, offsets, columns, pattern)


def merge(runs: Items[Run]) -> list[Run]:
    """Joins neighbours of the same adapter."""
    merged: list[Run] = []
    for run in runs:
        if merged and merged[-1].slot == run.slot and merged[-1].end == run.start:
            merged[-1] = Run(merged[-1].start, run.end, run.slot)
        else:
            merged.append(run)
    return merged
