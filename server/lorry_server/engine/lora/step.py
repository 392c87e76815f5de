"""What the wrapped layers look at during a forward pass; set before it, cleared after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lorry_server.engine.lora.merged import MergedStep
from lorry_server.engine.lora.rows import StepRows


@dataclass(slots=True)
class LoraStep:
    """Which tokens have which adapter."""

    tokens: StepRows | None = None  # for layers that see every token of the step
    logits: StepRows | None = (
        None  # for the output head, which sees only the tokens that are sampled from
    )
    merged: MergedStep | None = None
    late: Callable[[int], AbstractContextManager[None]] | None = None
    """For layers behind the last states, one text at a time: makes `tokens` and `merged` those of so many rows."""
