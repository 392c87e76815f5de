"""What a method owes: how the base is held, what is put on it to be learnt, and what of that is published.

`Peft` is the way of all that PEFT itself implements; a method of another kind gives its own verbs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftConfig, get_peft_model

from lorry_bases import Quantization
from lorry_bases.load import Base
from lorry_trainer.recipe import Recipe


class Method(Protocol):
    def quantization(self, recipe: Recipe) -> Quantization:
        """How the base is held in training."""
        ...

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        """`base.model`, changed in place so that what is learnt, and nothing else, requires a gradient. `task` is
        PEFT's task type. The recipe is a resolved one. Raises ValueError where it cannot be put on this base."""
        ...

    def optimizer(self, model: Any, recipe: Recipe) -> torch.optim.Optimizer | None:
        """An optimizer of the method's own, or None for the recipe's."""
        ...

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        """After training: the model as what is published makes it, and figures about that."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write what is published: `adapter_config.json` and `adapter_model.safetensors`."""
        ...


class Peft:
    """An adapter of PEFT's on a base in full precision; a subclass says which."""

    def quantization(self, recipe: Recipe) -> Quantization:
        return Quantization(type="none")

    def config(self, recipe: Recipe, task: str) -> PeftConfig:
        raise NotImplementedError

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        return get_peft_model(base.model, self.config(recipe, task))

    def optimizer(self, model: Any, recipe: Recipe) -> torch.optim.Optimizer | None:
        return None

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        return model, {}

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder, save_embedding_layers=False)
