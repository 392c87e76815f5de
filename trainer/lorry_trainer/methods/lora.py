"""LoRA, and QLoRA: the same on a base in 4 bits."""

from __future__ import annotations

from peft import LoraConfig

from lorry_bases import Quantization
from lorry_trainer.methods.contract import Peft
from lorry_trainer.recipe import Recipe


class Lora(Peft):
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
            use_rslora=lora.rslora,
            bias="none",
        )


class QLora(Lora):
    def quantization(self, recipe: Recipe) -> Quantization:
        return Quantization(
            type="nf4", double=recipe.quantization is None or recipe.quantization.double
        )


def _whole(number: float | None) -> float | None:
    """16 rather than 16.0, which some readers of adapter_config.json refuse."""
    return int(number) if number is not None and number == int(number) else number
