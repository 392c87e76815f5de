"""Memory that runs out, on the device or the machine, is answered with what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lorry_trainer.errors import TrainingError

TRAINING = (
    "Lower training.batch_size and raise gradient_accumulation, set training.gradient_checkpointing: true, lower "
    "data.max_length, or use method: qlora"
)
SCORING = "Lower evaluation.batch_size or evaluation.max_new_tokens"
LOADING = "Take a smaller base, or hold it in 4 bits with method: qlora"


@contextmanager
def told_when_out(way_out: str) -> Iterator[None]:
    """Raises TrainingError for an error that is about memory; all others pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or "no memory left"
        raise TrainingError(f"memory ran out: {reason}. {way_out}") from error


def _is_about_memory(error: MemoryError | RuntimeError) -> bool:
    """CUDA's error is a class of torch's, which need not be loaded here; that of its CPU allocator has only words."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
