"""Each row of `x` with rows of a table that are its own.

That is what the two largest readers of memory in a decoding step have in common on a CPU: LoRA factors, and cached
keys and values.

Which rows belong to which is a pattern, made once for a step and used by every layer. No row of the table is copied,
wherever it lies, and none that belongs to nobody is read.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


def serves(device: torch.device) -> bool:
    """Whether these products are the right ones there. Elsewhere runs of tokens are taken one by one."""
    return device.type == "cpu"


class Pattern:
    """Row `i` of `x` has `rows[offsets[i] : offsets[i + 1]]` of a table."""

    def __init__(self, counts: Integers, rows: Integers, num_table_rows: int) -> None:
        """`counts` says how many of `rows` each row of `x` has, in order."""
        self.num_rows = len(counts)
        self.offsets = torch.from_numpy(np.concatenate(([0], np.cumsum(counts))))
        self.rows = torch.from_numpy(rows)
        self._matrix = torch.sparse_csr_tensor(
            self.offsets,
            self.rows,
            torch.zeros(len(rows)),
            size=(len(counts), num_table_rows),
            check_invariants=False,
        )
        self._products = self._matrix.values()

    def products(self, x: torch.Tensor, table: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """[len(rows)]: `scale * x[i] @ table[j]` for each of the rows; good until the next call."""
        # In place, for copying the pattern into a new matrix would cost more than the products.
        torch.sparse.sampled_addmm(
            self._matrix, x, table.t(), beta=0.0, alpha=scale, out=self._matrix
        )
        return self._products

    def sums(self, weights: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """[num_rows, width]: for each row of `x` the sum of its rows of the table, weighted by `weights[len(rows)]`."""
        return torch.embedding_bag(
            table,
            self.rows,
            self.offsets,
            mode=0,
            per_sample_weights=weights,
            include_last_offset=True,
        )[0]
