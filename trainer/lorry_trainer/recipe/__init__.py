"""The recipe: what to train, on what, how, and how to score it. All its fields, their rules and their meaning.

A recipe is frozen, and an unknown key is an error. `None` (or `auto`) stands for a choice that `resolve` makes and
explains. `RECIPE.md` is made from the descriptions here. Knows nothing about files, torch or how training is done.
"""

from lorry_trainer.recipe.data import Augment, Columns, Data, Splits
from lorry_trainer.recipe.evaluation import UNBOUNDED, Evaluation, Metric, Requirement
from lorry_trainer.recipe.method import (
    HELD,
    Bottleneck,
    Full,
    Ia3,
    Lora,
    Quantization,
    Virtual,
)
from lorry_trainer.recipe.objective import Preference, Reinforcement
from lorry_trainer.recipe.section import Section
from lorry_trainer.recipe.training import Training
from lorry_trainer.recipe.whole import (
    FACTORS,
    FREE,
    LORAS,
    OBJECTIVE_SECTIONS,
    SECTIONS,
    Recipe,
)

__all__ = [
    "FACTORS",
    "FREE",
    "HELD",
    "LORAS",
    "OBJECTIVE_SECTIONS",
    "SECTIONS",
    "UNBOUNDED",
    "Augment",
    "Bottleneck",
    "Columns",
    "Data",
    "Evaluation",
    "Full",
    "Ia3",
    "Lora",
    "Metric",
    "Preference",
    "Quantization",
    "Recipe",
    "Reinforcement",
    "Requirement",
    "Section",
    "Splits",
    "Training",
    "Virtual",
]
