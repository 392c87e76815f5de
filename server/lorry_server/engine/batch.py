"""A step's chunks as tensors: one packed row of tokens, and where each of them stands.

Decoding sequences come first, those of one adapter side by side; prefill chunks follow, shorter ones first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch

from lorry_server.engine.attention import Integers2d, KVCache, PagedBatch, PrefillChunk
from lorry_server.engine.lora.rows import Run
from lorry_server.engine.plan import Chunk
from lorry_server.engine.virtual import Injection, VirtualRun


@dataclass(frozen=True, slots=True)
class PackedStep:
    """The inputs of one forward pass."""

    input_ids: torch.Tensor  # [1, num_tokens]
    position_ids: torch.Tensor  # [1, num_tokens]
    paged: PagedBatch
    logits_index: (
        torch.Tensor
    )  # [num_logits]: the tokens at each chunk's `logits_at`, in the plan's order
    pooled_rows: dict[int, range]  # by chunk in the plan: the tokens at its `pooled_at`, if any
    token_runs: list[Run]  # over the tokens of the step
    virtual_runs: list[VirtualRun]  # tokens that have no id
    injections: list[Injection]  # to be done before
    logit_runs: list[Run]  # over the rows of the logits


def pack(
    chunks: Items[Chunk],
    cache: KVCache,
    block_size: int,
    device: torch.device,
    *,
    decode_together: bool = True,
) -> PackedStep:
    """Lays the chunks of a plan out; the plan must not be accounted for before the step has run.

    `decode_together` is for devices that the sparse products serve; else a decoding sequence is a chunk like any other.
    """
    order = sorted(range(len(chunks)), key=lambda i: _place(chunks[i]))
    input_ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []  # the block of each token
    decode: list[Chunk] = []
    prefills: list[PrefillChunk] = []
    token_runs: list[Run] = []
    virtual_runs: list[VirtualRun] = []
    injections: list[Injection] = []
    starts = [0] * len(chunks)  # of each chunk: where its sequence's first token would stand
    for index in order:
        chunk = chunks[index]
        sequence, start = chunk.sequence, len(input_ids)
        first, end_position = chunk.end - chunk.num_tokens, chunk.end
        positions += range(first, end_position)
        table = sequence.block_table
        virtual = max(0, sequence.virtual.count - first)
        if virtual and chunk.slot is not None:
            count = min(virtual, chunk.num_tokens)
            virtual_runs.append(VirtualRun(start, count, first, chunk.slot))
            input_ids += [0] * count  # of no consequence
            input_ids += sequence.ids(first + count, end_position)
        else:
            input_ids += sequence.ids(first, end_position)
        if chunk.num_injected and chunk.slot is not None:
            known = sequence.num_computed_tokens
            injections.append(Injection(tuple(table), known, first, chunk.slot))
        places += [table[p // block_size] for p in range(first, end_position)]
        if chunk.num_tokens == 1 and decode_together:
            decode.append(chunk)
        else:
            blocks = torch.tensor(table[: -(-end_position // block_size)], device=device)
            prefills.append(PrefillChunk(start, len(input_ids), end_position, blocks))
        if chunk.slot is not None:
            token_runs.append(Run(start, len(input_ids), chunk.slot))
        starts[index] = start - first + sequence.virtual.count
    logits_at = [_shifted(chunk.logits_at, starts[index]) for index, chunk in enumerate(chunks)]
    ends = list(itertools.accumulate(map(len, logits_at)))
    paged = PagedBatch(
        cache=cache,
        blocks=np.array(places, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        decode_tables=_tables(decode, block_size),
        decode_lengths=np.array([chunk.end for chunk in decode], dtype=np.int64),
        prefills=prefills,
    )
    return PackedStep(
        input_ids=torch.tensor([input_ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        paged=paged,
        logits_index=torch.tensor(
            [row for rows in logits_at for row in rows], dtype=torch.int64, device=device
        ),
        pooled_rows={
            index: _shifted(chunk.pooled_at, starts[index])
            for index, chunk in enumerate(chunks)
            if chunk.pooled_at
        },
        token_runs=token_runs,
        virtual_runs=virtual_runs,
        injections=injections,
        logit_runs=[
            Run(end - len(rows), end, chunk.slot)
            for chunk, rows, end in zip(chunks, logits_at, ends, strict=True)
            if rows and chunk.slot is not None
        ],
    )


def _shifted(positions: range, by: int) -> range:
    return range(positions.start + by, positions.stop + by)


def _place(chunk: Chunk) -> tuple[int, int]:
    return (chunk.num_tokens, -1 if chunk.slot is None else chunk.slot)


def _tables(decode: list[Chunk], block_size: int) -> Integers2d:
    """The block tables of decoding sequences, each padded to the longest with block 0."""
    used = [-(-chunk.end // block_size) for chunk in decode]
    tables = np.zeros((len(decode), max(used, default=0)), dtype=np.int64)
    for row, (chunk, count) in enumerate(zip(decode, used, strict=True)):
        tables[row, :count] = chunk.sequence.block_table[:count]
    return tables
