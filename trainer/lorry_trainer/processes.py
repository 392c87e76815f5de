"""The processes of a run that `torchrun` or `accelerate launch` started: all train, the first does everything else."""

from __future__ import annotations

import os
import time
from datetime import timedelta

from lorry_trainer.errors import RecipeError

# The first scores the base while the others wait; a launcher ends them all when one fails, so no wait need be short.
_PATIENCE = timedelta(days=7)
# Until a launcher has seen that the first has ended: that takes a process with torch in it seconds on a busy machine.
_LAST_WORDS = 20.0  # seconds


def count() -> int:
    """1 where no launcher has started this process."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def together(wanted: int | None) -> int:
    """That a recipe is for: those it names, or all that were started."""
    return wanted or count()


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def refuse_other_number(wanted: int | None) -> None:
    """Raises RecipeError where a recipe is for so many processes, and others were started."""
    if wanted not in (None, count()):
        start = f"torchrun --nproc-per-node {wanted} --no-python lorry train …"
        raise RecipeError(
            f"training.processes is {wanted}, and {count()} {'is' if count() == 1 else 'are'} running; start it "
            f"{'without a launcher' if wanted == 1 else f'as `{start}`'}, or leave the key out"
        )


def device(wanted: str) -> str | None:
    """Of this process's own, where it trains on CUDA with others; None leaves the choice to the base.

    Raises RecipeError where this machine has fewer GPUs than processes.
    """
    import torch

    if count() > 1 and wanted != "cpu" and torch.cuda.is_available():
        number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= there:
            raise RecipeError(
                f"{os.environ.get('LOCAL_WORLD_SIZE', count())} processes on this machine, and {there} GPU"
                f"{'s' if there > 1 else ''}; each needs its own: start as many, or set training.device: cpu"
            )
        return f"cuda:{number}"
    return None if wanted == "auto" else wanted


def wait(*, on_cpu: bool) -> None:
    """Until all are here. The first call connects them, over gloo on a CPU."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=on_cpu, timeout=_PATIENCE).wait_for_everyone()


def leave_the_word_to_the_first() -> None:
    """Before a process says why it fails: where the first one does too, the launcher ends this one meanwhile."""
    if not is_first():
        time.sleep(_LAST_WORDS)
