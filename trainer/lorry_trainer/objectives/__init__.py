"""Objectives: what is learnt, from rows to scores. A file here and a line in `OBJECTIVES` each.

Imports no torch: the formats are looked at before the libraries of training are loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorry_trainer.objectives.contract import Objective

# objective -> the formats of data that it reads
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "sft": ("instruction", "messages", "prompt_completion", "text", "translation"),
    "classification": ("labelled",),
    "tokens": ("tagged",),
    "extraction": ("span",),
    "dpo": ("preference",),
    "kto": ("unpaired",),
    "orpo": ("preference",),
    "reward": ("preference",),
    "grpo": ("question",),
    "rloo": ("question",),
}


def find(name: str) -> Objective:
    """One of the objective of that name, for one run: `OBJECTIVE` of `lorry_trainer.objectives.<name>` is its class."""
    made: Objective = import_module(f"{__name__}.{name}").OBJECTIVE()
    return made
