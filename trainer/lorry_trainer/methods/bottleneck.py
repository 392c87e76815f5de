"""Bottleneck adapters: a narrow pair of layers after each sublayer's last projection, before the residual add.

Houlsby et al. (arXiv 1902.00751) put one after attention and one after the MLP of each layer, Pfeiffer et al. (arXiv
2005.00247) one after the MLP. PEFT has none, so the format is Lorry's own: docs/formats.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.pytorch_utils import Conv1D

from lorry_bases.load import Base
from lorry_trainer.recipe import Bottleneck as Section
from lorry_trainer.recipe import Recipe

PREFIX = "base_model.model."  # as PEFT writes it, before every path of the base
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
# Where the families of transformers end their two sublayers.
_AFTER_ATTENTION = re.compile(r".*(attn|attention)\.(o_proj|out_proj|c_proj|dense|wo)")
_AFTER_MLP = re.compile(
    r".*\b(mlp|feed_forward|ffn|layers\.\d+)\.(down_proj|c_proj|dense_4h_to_h|fc2|fc_out|w2)"
)
_PLACES = {"houlsby": (_AFTER_ATTENTION, _AFTER_MLP), "pfeiffer": (_AFTER_MLP,)}


class BottleneckLayer(nn.Module):
    """`y + scaling · up(act(down(y)))` for the output `y` of the layer that it stands after.

    At first `up` is zero, and the base says what it says.
    """

    def __init__(self, after: Any, config: Mapping[str, Any]) -> None:
        super().__init__()
        out = after.nf if isinstance(after, Conv1D) else after.out_features
        size, device = config["bottleneck_size"], after.weight.device
        self.after = after
        self.bottleneck_down = nn.Linear(out, size, device=device, dtype=torch.float32)
        self.bottleneck_up = nn.Linear(size, out, device=device, dtype=torch.float32)
        self.activation = ACTIVATIONS[config["activation"]]()
        self.scaling = float(config["scaling"])
        nn.init.normal_(self.bottleneck_down.weight, std=0.02)
        for zero in (self.bottleneck_down.bias, self.bottleneck_up.weight, self.bottleneck_up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.after(x)
        narrow = self.activation(self.bottleneck_down(y.to(self.bottleneck_down.weight.dtype)))
        added: torch.Tensor = self.scaling * self.bottleneck_up(narrow)
        return y + added.to(y.dtype)


def insert(model: nn.Module, config: Mapping[str, Any]) -> list[str]:
    """Puts new layers into the model, in place, as an adapter's configuration says; returns where.

    Raises ValueError where no layer of the model has such a name.
    """
    targets = config.get("target_modules")
    patterns = _PLACES[config["placement"]]
    paths = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and (
            any(path == name or path.endswith(f".{name}") for name in targets)
            if targets
            else any(pattern.fullmatch(path) for pattern in patterns)
        )
    ]
    if not paths:
        raise ValueError(
            f"no layer is called {' or '.join(targets)}: see target_modules"
            if targets
            else "the projections that end a sublayer have unusual names here: name them in target_modules"
        )
    for path in paths:
        parent, _, name = path.rpartition(".")
        holder = model.get_submodule(parent)
        setattr(holder, name, BottleneckLayer(holder.get_submodule(name), config))
    return paths


def load_bottleneck(model: Any, folder: Path) -> Any:
    """`model`, in place, with the bottleneck adapter in `folder`. Raises ValueError where it does not fit."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    insert(model, config)
    tensors = load_file(folder / "adapter_model.safetensors")
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    learnt = _learnt(model)
    if own.keys() != learnt.keys():
        raise ValueError(f"{folder} is for another base: {sorted(own.keys() ^ learnt.keys())[:3]}")
    with torch.no_grad():
        for name, tensor in own.items():
            learnt[name].copy_(tensor)
    return model.eval().requires_grad_(False)


class Bottleneck:
    """The method `bottleneck`."""

    exact: ClassVar[bool] = True

    def virtual_tokens(self, recipe: Recipe) -> int:
        return 0

    def published_rank(self, recipe: Recipe) -> int:
        return 0

    def attach(self, base: Base, recipe: Recipe, task: str) -> Any:
        model: Any = base.model
        section = recipe.bottleneck or Section()
        config = {
            "peft_type": "BOTTLENECK",
            "task_type": task,
            "placement": section.placement,
            "bottleneck_size": section.size,
            "activation": section.activation,
            "scaling": section.scaling,
            "target_modules": list(section.target_modules or ()),
        }
        paths = insert(model, config)
        model.bottleneck_config = {**config, "target_modules": paths}
        # transformers trains adapters alone on 4 bits, and knows PEFT's by this.
        model._hf_peft_config_loaded = True
        return model

    def optimizer(self, trainer: Trainer, recipe: Recipe) -> torch.optim.Optimizer | None:
        return None

    def finish(self, base: Base, model: Any, recipe: Recipe) -> tuple[Any, dict[str, float]]:
        return model, {}

    def save(self, model: Any, folder: Path) -> None:
        text = json.dumps(model.bottleneck_config, indent=2)
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        save_file(
            {PREFIX + name: each.detach().contiguous() for name, each in _learnt(model).items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )

    def detach(self, base: Base) -> None:
        model: Any = base.model
        for path, layer in list(model.named_modules()):
            if isinstance(layer, BottleneckLayer):
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, layer.after)
        for name in ("bottleneck_config", "_hf_peft_config_loaded"):
            vars(model).pop(name, None)
        vars(model).pop("forward", None)  # TRL's way to the loss
        model.eval().requires_grad_(False)


def _learnt(model: nn.Module) -> dict[str, nn.Parameter]:
    """By the names of the file, less the prefix."""
    return {
        f"{path}.{name}": parameter
        for path, layer in model.named_modules()
        if isinstance(layer, BottleneckLayer)
        for name, parameter in layer.named_parameters()
        if name.startswith("bottleneck_")
    }
