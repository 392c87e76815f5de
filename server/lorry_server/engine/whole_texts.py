"""Texts that are read at once and whole, of which nothing is kept: an encoder's.

What a token means there depends on what comes after it. So no prefix is shared, no text is cut, and keys and values are
forgotten with the step: there are no blocks. Knows no torch.
"""

from __future__ import annotations

from lorry_server.engine.sequence import Sequence


class WholeTexts:
    """A `Memory` in which there is always room; a step alone is short of it."""

    num_blocks = 0
    num_used_blocks = 0
    hit_tokens = 0

    def __init__(self, most_tokens: int, max_batched_tokens: int) -> None:
        self.most_tokens = most_tokens
        self.query_tokens = 0
        self._whole_step = max_batched_tokens

    def admit(self, sequence: Sequence, budget: int) -> int | None:
        """All of the sequence or nothing. What is longer than any step runs where nothing else does."""
        num_tokens = sequence.num_uncomputed_tokens
        if num_tokens > budget < self._whole_step:
            return None
        self.query_tokens += num_tokens
        return num_tokens

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        return True

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Nothing."""

    def commit(self, sequence: Sequence) -> None:
        """Nothing."""

    def free(self, sequence: Sequence) -> None:
        sequence.num_computed_tokens = 0
