"""The processes of a run that `torchrun` or `accelerate launch` started: all train, the first does everything else."""

from __future__ import annotations

import os
from datetime import timedelta

# The first scores the base while the others wait; a launcher ends them all when one fails, so no wait need be short.
_PATIENCE = timedelta(days=7)


def count() -> int:
    """1 where no launcher has started this process."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def device(wanted: str) -> str | None:
    """Of this process's own, where it trains on CUDA with others; None leaves the choice to the base."""
    import torch

    if count() > 1 and wanted != "cpu" and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return None if wanted == "auto" else wanted


def wait(*, on_cpu: bool) -> None:
    """Until all are here. The first call connects them, over gloo on a CPU."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=on_cpu, timeout=_PATIENCE).wait_for_everyone()
