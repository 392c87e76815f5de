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

from lorry_server.engine.lora.planes import PLANE, Ranks, num_pool_rows, slot_rows
from lorry_server.engine.sparse import Integers, Pattern

LONG_RUN = (
    16  # tokens; below it the overhead of two small matrix products outweighs them (measured, CPU)
)
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens `[start, end)` of a step, all of one adapter."""

    start: int
    end: int
    slot: int


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What one layer has to do in a step."""

    long_runs: tuple[tuple[slice, slice | torch.Tensor], ...]  # (tokens, rows of the pool)
    gathered: Pattern | None  # the short runs: the first tokens, each with its own rows of the pool


@dataclass(frozen=True, slots=True)
class ShortRuns:
    """Single tokens, each with its slot."""

    tokens: torch.Tensor  # [n] int64
    slots: torch.Tensor  # [n] int64


@dataclass(frozen=True, slots=True)
class Picked:
    """Where the tokens of some of a step's adapters stand."""

    long_runs: tuple[tuple[slice, int], ...]  # (tokens, slot)
    short: ShortRuns | None


class StepRows:
    """The runs of a step, and the plans made from them."""

    def __init__(
        self,
        runs: Items[Run],
        max_rank: int,
        num_slots: int,
        *,
        long_run: int = LONG_RUN,
        device: torch.device = _CPU,
    ) -> None:
        """Runs of `long_run` tokens and more get a product of their own."""
        self.runs = merge(runs)
        self._long_run = long_run
        self._device = device
        self._picks: dict[frozenset[int], Picked | None] = {}
        self._num_slots = num_slots
        self._pool_rows = num_pool_rows(num_slots, max_rank)
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

    def pick(self, slots: frozenset[int]) -> Picked | None:
        """The tokens whose adapters are in these slots; None where there are none."""
        if not slots:
            return None
        try:
            return self._picks[slots]
        except KeyError:
            picked = self._picks[slots] = self._pick(slots)
            return picked

    def _pick(self, slots: frozenset[int]) -> Picked | None:
        runs = [run for run in self.runs if run.slot in slots]
        if not runs:
            return None
        long = [run for run in runs if run.end - run.start >= LONG_RUN]
        short = [run for run in runs if run.end - run.start < LONG_RUN]
        return Picked(
            tuple((slice(run.start, run.end), run.slot) for run in long),
            self._short(short) if short else None,
        )

    def _short(self, runs: list[Run]) -> ShortRuns:
        tokens = [token for run in runs for token in range(run.start, run.end)]
        slots = [run.slot for run in runs for _ in range(run.start, run.end)]
        return ShortRuns(*(torch.tensor(each, device=self._device) for each in (tokens, slots)))

    def _make(self, ranks: dict[int, int]) -> RowPlan | None:
        long_runs: list[tuple[slice, slice | torch.Tensor]] = []
        short: list[tuple[Run, int]] = []
        for run in self.runs:
            rank = ranks.get(run.slot)
            if rank is None:
                continue
            if run.end - run.start >= self._long_run:
                long_runs.append((slice(run.start, run.end), self._side_by_side(run.slot, rank)))
            else:
                short.append((run, rank))
        if not long_runs and not short:
            return None
        return RowPlan(tuple(long_runs), self._gather(short) if short else None)

    def _gather(self, short: list[tuple[Run, int]]) -> Pattern:
        counts = np.zeros(short[-1][0].end, dtype=np.int64)
        rows: list[Integers] = []
        for run, rank in short:
            counts[run.start : run.end] = rank
            own = slot_rows(run.slot, rank, self._num_slots)
            rows.append(own if run.end - run.start == 1 else np.tile(own, run.end - run.start))
        return Pattern(counts, np.concatenate(rows), self._pool_rows)

    def _side_by_side(self, slot: int, rank: int) -> slice | torch.Tensor:
        """The rows of a slot as something to index with, a view where they lie in one plane."""
        if rank <= PLANE:
            return slice(slot * PLANE, slot * PLANE + rank)
        return torch.from_numpy(slot_rows(slot, rank, self._num_slots))


def merge(runs: Items[Run]) -> list[Run]:
    """Joins neighbours of the same adapter."""
    merged: list[Run] = []
    for run in runs:
        if merged and merged[-1].slot == run.slot and merged[-1].end == run.start:
            merged[-1] = Run(merged[-1].start, run.end, run.slot)
        else:
            merged.append(run)
    return merged
