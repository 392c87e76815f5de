"""Methods: how the base is held and which PEFT adapter is put on it. One class and one line in `METHODS` each.

Imports peft, so it is imported only when training is about to start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from peft import LoraConfig, TaskType

from lorry_bases import Quantization
from lorry_trainer.recipe import Recipe

if TYPE_CHECKING:
    from peft import PeftConfig


class Method(Protocol):
    def quantization(self, recipe: Recipe) -> Quantization:
        """How the base is loaded for training."""
        ...

    def adapter(self, recipe: Recipe) -> PeftConfig:
        """What PEFT puts on the base. The recipe is a resolved one."""
        ...


class Lora:
    def quantization(self, recipe: Recipe) -> Quantization:
        return Quantization(type="none")

    def adapter(self, recipe: Recipe) -> PeftConfig:
        lora = recipe.lora
        targets = lora.target_modules
        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
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


METHODS: dict[str, Method] = {"lora": Lora(), "qlora": QLora()}
