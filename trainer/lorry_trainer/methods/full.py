"""Full fine-tuning, and from it a LoRA: the change of each weight, cut down to a rank by SVD."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import LoraConfig, get_peft_model

from lorry_bases.load import Base
from lorry_trainer import processes
from lorry_trainer.methods.contract import ORIGINAL
from lorry_trainer.methods.lora import Lora, factors, is_transposed
from lorry_trainer.methods.svd import truncate
from lorry_trainer.recipe import Full as Section
from lorry_trainer.recipe import Recipe


class Full(Lora):
    exact: ClassVar[bool] = False

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        model = base.model
        config = self._extracted(recipe, task)
        with torch.no_grad():
            # PEFT alone knows which layers the recipe's names mean.
            probe = get_peft_model(model, config)
            targets = list(factors(probe))
            model = probe.unload()
        model.requires_grad_((recipe.full or Section()).weights == "all")
        for name in targets:
            model.get_submodule(name).weight.requires_grad_(True)
        originals = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        setattr(model, ORIGINAL, originals)
        model.peft_task = task
        return model

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        if recipe.full and recipe.full.model and processes.is_first():
            folder = Path(recipe.full.model)
            model.save_pretrained(folder)
            if base.tokenizer is not None:
                base.tokenizer.save_pretrained(folder)
        total = 0.0
        deltas: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if (original := getattr(model, ORIGINAL).get(name)) is not None:
                    delta = parameter - original.to(parameter.device)
                    parameter.copy_(original)
                    total += float(delta.double().square().sum())
                    deltas[name] = delta
            model.requires_grad_(False)
            adapted = get_peft_model(model, self._extracted(recipe, model.peft_task))
            kept, worst = 0.0, 1.0
            for name, layer in factors(adapted).items():
                delta = deltas[f"{name}.weight"]
                part = truncate(delta.t() if is_transposed(layer) else delta, recipe.lora.rank)
                layer.lora_A["default"].weight.copy_(part.a)
                layer.lora_B["default"].weight.copy_(part.b)
                kept += part.kept
                worst = min(worst, part.kept / part.total if part.total else 1.0)
        energy = kept / total if total else 1.0
        figures = {
            "svd_energy_kept": energy,
            "svd_energy_kept_worst_layer": worst,
            "svd_relative_error": max(0.0, 1 - energy) ** 0.5,
        }
        return adapted, figures

    def _extracted(self, recipe: Recipe, task: str) -> LoraConfig:
        """The factors hold the whole change, so their scaling is one."""
        config = self.config(recipe, task)
        config.lora_alpha, config.use_rslora, config.lora_dropout = config.r, False, 0.0
        return config
