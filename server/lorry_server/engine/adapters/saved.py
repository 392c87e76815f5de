"""What any kind may bring besides its own tensors: whole parameters, rows of them, heads, copies of the base's."""

from __future__ import annotations

import torch

from lorry_registry.checks import AdapterFiles, TokenRows
from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.tensors import Tensors
from lorry_server.engine.adapters.weights import RowsUpdate

_BLOCK_ROWS = 4096  # of a large matrix at a time: an output head is not held in float32 twice


def read_saved(files: AdapterFiles, tensors: Tensors, base: BaseView, into: WeightsBuilder) -> None:
    """Raises FailedPrecondition `BASE_WEIGHT_DIFFERS` where a copy of the base's own weight is none."""
    heads = dict(files.parts.heads)
    for path, name in files.parts.replaced.items():
        if base.is_heads(path):
            heads[path] = name
            continue
        delta = _difference(tensors.stored(name), base.parameter(path), into.dtype)
        if delta.any():
            _add_parameter(path, delta, base, into)
    for path, rows in files.parts.tokens.items():
        update = _rows(rows, tensors, base.parameter(f"{path}.weight"))
        _add_rows(path, update, base, into)
        head = base.tied_head(path)
        if head and head not in files.parts.tokens:
            into.add_to_linear(head, rows=update)
    for path, name in files.parts.copies.items():
        _check_copy(path, tensors.stored(name), base.parameter(path), name)
    for path, name in heads.items():
        into.add_to_head(path, tensors.read(name))


def _difference(new: torch.Tensor, old: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`new - old`, rounded once."""
    if new.dim() == 1:
        return (new.float() - old.float().to(new.device)).to(dtype)
    delta = torch.empty(new.shape, dtype=dtype)
    for first in range(0, len(new), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        delta[block] = new[block].float() - old[block].float().to(new.device)
    return delta


def _add_parameter(path: str, delta: torch.Tensor, base: BaseView, into: WeightsBuilder) -> None:
    module, _, field = path.rpartition(".")
    if base.is_linear(module) and field == "bias":
        into.add_to_linear(module, bias=delta)
    elif base.is_linear(module):
        into.add_to_linear(module, weight=delta.t() if base.is_transposed(module) else delta)
    elif base.is_embedding(module):
        into.add_to_embedding(module, weight=delta)
    else:
        into.add_to_parameter(path, delta)


def _rows(rows: TokenRows, tensors: Tensors, weight: torch.Tensor) -> RowsUpdate:
    """Of an index that stands there twice the last row counts, as in PEFT."""
    new = tensors.read(rows.tensor)
    last = {index: row for row, index in enumerate(rows.indices)}
    indices = torch.tensor(sorted(last), dtype=torch.int64)
    chosen = new[[last[index] for index in sorted(last)]]
    old = weight[indices.to(weight.device)].float().to(chosen.device)
    return RowsUpdate(indices, chosen - old)


def _add_rows(path: str, update: RowsUpdate, base: BaseView, into: WeightsBuilder) -> None:
    if base.is_linear(path):
        into.add_to_linear(path, rows=update)
    else:
        into.add_to_embedding(path, rows=update)


def _check_copy(path: str, copy: torch.Tensor, own: torch.Tensor, name: str) -> None:
    """PEFT saves a base's embedding beside the adapter that targets it. It has rounded it to the type of the file."""
    for first in range(0, len(copy), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        if not copy[block].equal(own[block].to("cpu", copy.dtype)):
            raise FailedPrecondition(
                f"The adapter's tensor {name!r} is a copy of the base's {path}, and differs from what this base has: "
                "the adapter was trained on other weights. Use that base, or save the adapter with "
                "save_pretrained(..., save_embedding_layers=False).",
                reason="BASE_WEIGHT_DIFFERS",
                tensor=name[:200],
                module=path[:200],
            )
