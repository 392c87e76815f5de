"""What a method owes: what is put on the base to be learnt, and what of that is published.

`Peft` is the way of all that PEFT itself implements; a method of another kind gives its own verbs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from transformers import Trainer

from lorry_bases.load import Base
from lorry_trainer.recipe import Recipe

ORIGINAL = "original_weights"  # of the base, by name: kept on it by methods that change them


class Method(Protocol):
    exact: ClassVar[bool]  # whether what is published acts as what was trained

    def virtual_tokens(self, recipe: Recipe) -> int:
        """Positions of the context that the adapter takes for itself."""
        ...

    def published_rank(self, recipe: Recipe) -> int:
        """The rank of the factors that are published; 0 where there are none."""
        ...

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        """`base.model`, changed in place so that what is learnt, and nothing else, requires a gradient. `task` is
        PEFT's task type. The recipe is a resolved one. Raises ValueError where it cannot be put on this base."""
        ...

    def optimizer(self, trainer: Trainer, recipe: Recipe) -> torch.optim.Optimizer | None:
        """An optimizer of the method's own, or None for the recipe's."""
        ...

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        """After training: the model as what is published makes it, and figures about that."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write what is published: `adapter_config.json` and `adapter_model.safetensors`."""
        ...

    def detach(self, base: Base) -> None:
        """Take off the base whatever `attach` or `finish` put on it, trained or not: `base.model` acts again as it was
        loaded."""
        ...


class Peft:
    """An adapter of PEFT's; a subclass says which."""

    exact: ClassVar[bool] = True

    def virtual_tokens(self, recipe: Recipe) -> int:
        return 0

    def published_rank(self, recipe: Recipe) -> int:
        return 0

    def config(self, recipe: Recipe, task: str) -> PeftConfig:
        raise NotImplementedError

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        config = self.config(recipe, task)
        self.fit(config, base)
        return get_peft_model(base.model, config)

    def fit(self, config: PeftConfig, base: Base) -> None:
        """Put into the config what the base decides: a head is learnt as a whole."""
        if base.new_modules and hasattr(config, "exclude_modules"):
            config.exclude_modules = [*(config.exclude_modules or ()), *base.new_modules]
            config.modules_to_save = [*(config.modules_to_save or ()), *base.new_modules]

    def optimizer(self, trainer: Trainer, recipe: Recipe) -> torch.optim.Optimizer | None:
        return None

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        return model, {}

    def save(self, model: Any, folder: Path) -> None:
        # TRL keeps a second one where it needs the start as a reference.
        model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])

    def detach(self, base: Base) -> None:
        # model.unload() would do, but that of (IA)³ refuses 4-bit layers, though nothing is merged.
        for name, layer in list(base.model.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                _put(base.model, name, layer.get_base_layer())
            elif isinstance(layer, ModulesToSaveWrapper):
                _put(base.model, name, layer.original_module)
        vars(base.model).pop("peft_config", None)
        vars(base.model).pop("forward", None)  # TRL's way to the loss
        with torch.no_grad():
            for name, weight in vars(base.model).pop(ORIGINAL, {}).items():
                base.model.get_parameter(name).copy_(weight)
        base.model.eval().requires_grad_(False)


def _put(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
