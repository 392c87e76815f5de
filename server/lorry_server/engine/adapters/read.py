"""An adapter folder as what it does to the base, ready for a slot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from lorry_registry.checks import read_adapter
from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters.weights import AdapterWeights, LinearUpdate


def read_weights(
    folder: Path, linear_shapes: Mapping[str, tuple[int, int]], max_rank: int, dtype: torch.dtype
) -> AdapterWeights:
    """Reads an adapter folder; every tensor in it ends up in a module's factors.

    Raises FailedPrecondition where the adapter does not fit this base, InvalidArgument where the files are broken.
    """
    files = read_adapter(folder, max_modules=len(linear_shapes))
    linears: dict[str, LinearUpdate] = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
        for path, module in files.modules.items():
            a = tensors.get_tensor(module.a).to(dtype)
            b = tensors.get_tensor(module.b).float().t().mul(module.scaling).to(dtype).contiguous()
            _check_fit(path, (a.shape[1], b.shape[1]), a.shape[0], linear_shapes, max_rank)
            linears[path] = LinearUpdate(a, b)
    return AdapterWeights(linears)


def _check_fit(
    path: str,
    shape: tuple[int, int],
    rank: int,
    linear_shapes: Mapping[str, tuple[int, int]],
    max_rank: int,
) -> None:
    expected = linear_shapes.get(path)
    if expected != shape:
        has = (
            "has no such linear layer"
            if expected is None
            else f"has {expected[0]} → {expected[1]} there"
        )
        raise FailedPrecondition(
            f"The adapter's layer {path} is {shape[0]} → {shape[1]}, but the base {has}; "
            "use the base that the adapter was trained on.",
            reason="ADAPTER_BASE_MISMATCH",
            module=path,
        )
    if rank > max_rank:
        raise FailedPrecondition(
            f"The adapter has rank {rank} in {path}; this server takes at most {max_rank}: start it with "
            f"--max-rank {rank}.",
            reason="RANK_ABOVE_CAP",
            module=path,
            rank=rank,
            max_rank=max_rank,
        )
