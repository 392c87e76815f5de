"""LoRA and its relatives of one config: QLoRA, rsLoRA, DoRA, LoRA+."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer
from transformers.pytorch_utils import Conv1D

from lorry_bases.load import Base
from lorry_trainer.errors import RecipeError
from lorry_trainer.methods.contract import Peft
from lorry_trainer.recipe import Recipe


@dataclass(frozen=True)
class Lora(Peft):
    """The recipe's own switches, and those that the method's name stands for."""

    rslora: bool = False
    dora: bool = False
    learning_rate_ratio: float = 1.0

    def published_rank(self, recipe: Recipe) -> int:
        return recipe.lora.rank

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
            modules_to_save=list(lora.modules_to_save) or None,
            use_rslora=bool(lora.rslora) or self.rslora,
            use_dora=bool(lora.dora) or self.dora,
            bias="none",
        )

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        refuse_unsaveable(base, recipe.lora.modules_to_save)
        return super().attach(base, recipe, task)

    def fit(self, config: PeftConfig, base: Base) -> None:
        config.ensure_weight_tying = tied(base, config.modules_to_save or ())
        super().fit(config, base)

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
            loraplus_lr_embedding=recipe.training.learning_rate,  # of whole ones; PEFT's is 1e-6
            **options,
        )
        _slow_down_others(made, trainer)
        return made


def _slow_down_others(optimizer: torch.optim.Optimizer, trainer: Trainer) -> None:
    """PEFT gives every vector the rate of B: a norm that is learnt whole too. Here it is B's alone."""
    usual = trainer.args.learning_rate
    factors_b = {id(p) for n, p in trainer.model.named_parameters() if "lora_B" in n}
    for group in list(optimizer.param_groups):
        others = [p for p in group["params"] if group["lr"] != usual and id(p) not in factors_b]
        if others:
            group["params"] = [p for p in group["params"] if id(p) in factors_b]
            optimizer.add_param_group({**group, "params": others, "lr": usual})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def refuse_unsaveable(base: Base, names: Sequence[str]) -> None:
    """Raise RecipeError where a name means no module of the base, or one with linear layers inside, which are quantized
    where an adapter is served."""
    head = base.model.get_output_embeddings()
    modules = dict(base.model.named_modules())
    for name in names:
        meant = [m for path, m in modules.items() if path.endswith(name)]  # as PEFT has it
        if not meant:
            ends = {
                path.rpartition(".")[2] for path, m in modules.items() if _may_be_saved(m, head)
            }
            raise RecipeError(
                f"lora.modules_to_save {name!r} is no module of {base.name!r}; it has {', '.join(sorted(ends))}"
            )
        if not all(_may_be_saved(module, head) for module in meant):
            raise RecipeError(
                f"lora.modules_to_save {name!r} has linear layers, which are quantized where adapters are served; name "
                "them in lora.target_modules, and here only embeddings, norms and the output head"
            )


def tied(base: Base, names: Sequence[str]) -> bool:
    """Whether a name means an embedding that is the output head as well: the two then stay one."""
    head, embedding = base.model.get_output_embeddings(), base.model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    paths = [path for path, module in base.model.named_modules() if module in (head, embedding)]
    return any(path.endswith(name) for path in paths for name in names)


def _may_be_saved(module: torch.nn.Module, head: torch.nn.Module | None) -> bool:
    """It holds something, and no linear layer but the output head."""
    linear = (m for m in module.modules() if isinstance(m, torch.nn.Linear | Conv1D))
    return all(m is head for m in linear) and next(module.parameters(), None) is not None


def _whole(number: float | None) -> float | None:
    """16 rather than 16.0, which some readers of adapter_config.json refuse."""
    return int(number) if number is not None and number == int(number) else number


def is_transposed(layer: Any) -> bool:
    """Whether the base keeps the weight of a layer with factors as [in_features, out_features], as GPT-2 does."""
    return isinstance(layer.get_base_layer(), Conv1D)


def factors(model: Any) -> dict[str, Any]:
    """The layers that hold the factors of a LoRA, by their place in the base's model."""
    return {
        name: layer
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "lora_A") and "default" in layer.lora_A
    }
