"""Paged KV memory: which block holds which tokens, and which blocks requests share.

Knows block numbers and hashes only; the tensors belong to the model runner. A full block is known by the hash of
everything before it, and the chain starts from the adapter's digest, so that two adapters never share a prefix.
A block that nobody holds keeps its content until its place is needed; the least recently released goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from typing import Protocol

from lorry_server.engine.sequence import Sequence


def prefix_seed(adapter: str | None) -> bytes:
    """The hash before the first block: what must be equal for two sequences to share keys and values."""
    return hashlib.blake2b((adapter or "base").encode(), digest_size=16).digest()


def block_hash(previous: bytes, ids: list[int]) -> bytes:
    """The hash of a full block, given the hash of the one before it."""
    return hashlib.blake2b(previous + array("q", ids).tobytes(), digest_size=16).digest()


class Memory(Protocol):
    """What the scheduler asks for room in. `num_` are blocks."""

    num_blocks: int
    query_tokens: int  # of all sequences that were admitted
    hit_tokens: int  # of these, found in memory

    @property
    def num_used_blocks(self) -> int: ...

    @property
    def most_tokens(self) -> int:
        """The longest sequence that there can be room for."""
        ...

    def admit(self, sequence: Sequence, budget: int) -> int | None: ...

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool: ...

    def allocate(self, sequence: Sequence, num_tokens: int) -> None: ...

    def commit(self, sequence: Sequence) -> None: ...

    def free(self, sequence: Sequence) -> None: ...


class BlockManager:
    """`admit`, `allocate` and `free` are the only ways in and out of a block.

    `check_integrity` says what holds between them.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.query_tokens = 0
        self.hit_tokens = 0
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    @property
    def num_used_blocks(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def most_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def admit(self, sequence: Sequence, budget: int) -> int | None:
        """Gives a sequence without blocks those that already hold its beginning, and room for what comes next.

        Returns how many tokens to compute now, 1 … budget, or None (nothing changed) where memory is short. The
        adapter's own keys and values come before those, and are no part of the budget.
        """
        assert not sequence.block_table
        self._match_prefix(sequence)
        injected = sequence.num_uninjected_tokens
        num_tokens = min(sequence.num_uncomputed_tokens - injected, budget)
        if not self.can_allocate(sequence, injected + num_tokens):
            self.free(sequence)
            return None
        self.query_tokens += sequence.num_tokens
        self.hit_tokens += sequence.num_computed_tokens
        self.allocate(sequence, injected + num_tokens)
        return num_tokens

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether there is room for `num_tokens` more computed tokens."""
        return self._missing(sequence, num_tokens) <= len(self._free)

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Makes room for `num_tokens` more computed tokens; `can_allocate` must have said yes."""
        for _ in range(self._missing(sequence, num_tokens)):
            block = next(iter(self._free))
            self._forget(block)
            self._hold(block)
            sequence.block_table.append(block)

    def commit(self, sequence: Sequence) -> None:
        """Makes the blocks that became full and computed known to later sequences."""
        full = sequence.num_computed_tokens // self.block_size
        while len(sequence.block_hashes) < full:
            index = len(sequence.block_hashes)
            previous = sequence.block_hashes[-1] if index else prefix_seed(sequence.adapter)
            start = index * self.block_size
            current = block_hash(previous, sequence.ids(start, start + self.block_size))
            sequence.block_hashes.append(current)
            block = sequence.block_table[index]
            if current not in self._block_of:
                self._block_of[current] = block
                self._hash_of[block] = current

    def free(self, sequence: Sequence) -> None:
        """Takes all blocks from a sequence. The end of a prefix goes before its beginning."""
        for block in reversed(sequence.block_table):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
        sequence.block_table.clear()
        sequence.block_hashes.clear()
        sequence.num_computed_tokens = 0

    def check_integrity(self, sequences: list[Sequence]) -> None:
        """Asserts that the books agree with the sequences that hold blocks."""
        held = [0] * self.num_blocks
        for sequence in sequences:
            for block in sequence.block_table:
                held[block] += 1
            assert len(sequence.block_table) >= self.blocks_for(sequence.num_computed_tokens)
        assert held == self._references
        assert set(self._free) == {block for block, count in enumerate(held) if count == 0}
        assert {block: key for key, block in self._block_of.items()} == self._hash_of

    def _match_prefix(self, sequence: Sequence) -> None:
        previous = prefix_seed(sequence.adapter)
        last_start = sequence.num_skippable_tokens - self.block_size
        for start in range(0, last_start + 1, self.block_size):
            previous = block_hash(previous, sequence.ids(start, start + self.block_size))
            block = self._block_of.get(previous)
            if block is None:
                break
            self._hold(block)
            sequence.block_table.append(block)
            sequence.block_hashes.append(previous)
        sequence.num_computed_tokens = len(sequence.block_table) * self.block_size

    def _missing(self, sequence: Sequence, num_tokens: int) -> int:
        needed = self.blocks_for(sequence.num_computed_tokens + num_tokens)
        return max(0, needed - len(sequence.block_table))

    def _hold(self, block: int) -> None:
        self._references[block] += 1
        self._free.pop(block, None)

    def _forget(self, block: int) -> None:
        key = self._hash_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
