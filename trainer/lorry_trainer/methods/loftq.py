"""LoftQ: QLoRA whose factors start as the best stand-in for what quantizing lost (arXiv 2310.08659).

One step of its alternation: the base stays quantized as it is, because that is the base which every other adapter is
served from too. PEFT's own `replace_lora_weights_loftq` does the same step, on CUDA and for a scaling of one alone.
"""

from __future__ import annotations

from typing import Any

from bitsandbytes.functional import dequantize_4bit
from transformers.pytorch_utils import Conv1D

from lorry_bases.load import Base
from lorry_trainer.methods.lora import Lora, factors
from lorry_trainer.methods.svd import truncate
from lorry_trainer.recipe import Recipe


class LoftQ(Lora):
    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        model = super().attach(base, recipe, task)
        kept = total = 0.0
        layers = factors(model)
        for name, exact in _exact_weights(base, list(layers)):
            layer = layers[name]
            held = layer.get_base_layer().weight
            lost = (
                exact.to(held.device).float() - dequantize_4bit(held.data, held.quant_state).float()
            )
            scaling = layer.scaling["default"]
            part = truncate(lost / scaling, recipe.lora.rank)
            layer.lora_A["default"].weight.data.copy_(part.a)
            layer.lora_B["default"].weight.data.copy_(part.b)
            kept, total = kept + part.kept * scaling**2, total + part.total * scaling**2
        model.quantization_loss_recovered = kept / total
        return model

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        return model, {"loftq_recovered_at_start": model.quantization_loss_recovered}


def _exact_weights(base: Base, names: list[str]) -> Any:
    """The weights of the base before quantizing, by their place in the model."""
    exact = type(base.model).from_pretrained(
        base.path, dtype="auto", local_files_only=True, use_safetensors=True
    )
    for name in names:
        layer = exact.get_submodule(name)
        yield name, layer.weight.data.t() if isinstance(layer, Conv1D) else layer.weight.data
