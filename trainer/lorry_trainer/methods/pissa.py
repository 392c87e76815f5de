"""PiSSA: LoRA whose factors start as the principal part of the weights, which is taken out of them (arXiv 2404.02948).

The published adapter must fit the base as it is, so what was learnt is published as its difference from the start:
plain LoRA of twice the rank, `W + BA − B₀A₀`.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers.pytorch_utils import Conv1D

from lorry_bases.load import Base
from lorry_trainer.methods.contract import ORIGINAL
from lorry_trainer.methods.lora import Lora, factors
from lorry_trainer.recipe import Recipe


class Pissa(Lora):
    def published_rank(self, recipe: Recipe) -> int:
        return 2 * recipe.lora.rank

    def config(self, recipe: Recipe, task: str) -> LoraConfig:
        config = super().config(recipe, task)
        config.init_lora_weights = "pissa"
        return config

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        kept = {
            name: layer.weight.detach().clone()
            for name, layer in base.model.named_modules()
            if isinstance(layer, torch.nn.Linear | Conv1D)
        }
        model = super().attach(base, recipe, task)
        originals = {f"{name}.weight": kept[name] for name in factors(model)}
        setattr(base.model, ORIGINAL, originals)
        model.start = tempfile.TemporaryDirectory(prefix="lorry-pissa-")  # gone with the model
        model.save_pretrained(model.start.name, save_embedding_layers=False)
        return model

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        with tempfile.TemporaryDirectory(prefix="lorry-pissa-") as folder:
            model.save_pretrained(
                folder,
                save_embedding_layers=False,
                path_initial_model_for_weight_conversion=model.start.name,
            )
            self.detach(base)
            return PeftModel.from_pretrained(base.model, folder), {}
