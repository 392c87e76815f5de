"""LoRA and its relatives of one config: QLoRA, rsLoRA, DoRA, LoRA+."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer

from lorry_trainer.methods.contract import Peft
from lorry_trainer.recipe import Recipe


@dataclass(frozen=True)
class Lora(Peft):
    """The recipe's own switches, and those that the method's name stands for."""

    rslora: bool = False
    dora: bool = False
    learning_rate_ratio: float = 1.0

    def config(self, recipe: Recipe, task: str) -> LoraConfig:
        lora = recipe.lora
        targets = lora.target_modules
        return LoraConfig(
            task_type=task,
            r=lora.rank,
            lora_alpha=_whole(lora.alpha),
            lora_dropout=lora.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            exclude_modules=list(lora.exclude_modules) or None,
            use_rslora=lora.rslora or self.rslora,
            use_dora=lora.dora or self.dora,
            bias="none",
        )

    def optimizer(self, trainer: Trainer, recipe: Recipe) -> torch.optim.Optimizer | None:
        ratio = recipe.lora.learning_rate_ratio or self.learning_rate_ratio
        if ratio == 1:
            return None
        cls, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        made: torch.optim.Optimizer = create_loraplus_optimizer(
            model=trainer.model,
            optimizer_cls=cls,
            loraplus_lr_ratio=ratio,
            loraplus_weight_decay=recipe.training.weight_decay,
            **options,
        )
        return made


def _whole(number: float | None) -> float | None:
    """16 rather than 16.0, which some readers of adapter_config.json refuse."""
    return int(number) if number is not None and number == int(number) else number


def factors(model: Any) -> dict[str, Any]:
    """The layers that hold the factors of a LoRA, by their place in the base's model."""
    return {
        name: layer
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "lora_A") and "default" in layer.lora_A
    }
