"""What an adapter may attach to in a base, what its embeddings are told of a token, and what it costs in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers.pytorch_utils import Conv1D


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Every linear layer by its dotted path, `lm_head` included -> (in_features, out_features).

    The paths are those of `model.named_modules()`, which PEFT matches its `target_modules` against;
    in an adapter's file they stand after `base_model.model.`.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):  # Linear4bit is one too
            shapes[path] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):  # GPT-2's linear layer keeps its weight as [in, out]
            in_features, out_features = module.weight.shape
            shapes[path] = (in_features, out_features)
    return shapes


@dataclass(frozen=True, slots=True)
class ParameterShape:
    """A parameter that an adapter may change for its own requests."""

    path: str
    shape: tuple[int, ...]  # 0 first: a head's, which each adapter brings with outputs of its own
    tied_to: str = ""  # the path of the parameter that it shares its memory with


def parameter_shapes(model: nn.Module) -> list[ParameterShape]:
    """The parameters of linear layers, embeddings and norms, as they are stored; quantized ones are left out.

    An output head that is tied to the embedding is named as tied to it.
    """
    shapes: list[ParameterShape] = []
    paths: dict[int, str] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not _may_change(module, parameter):
                continue
            whole = f"{path}.{name}"
            first = paths.setdefault(id(parameter), whole)
            tied_to = "" if first == whole else first
            shapes.append(ParameterShape(whole, tuple(parameter.shape), tied_to))
    return shapes


def _may_change(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Norms are known by what they are made of: vectors, in a module that has no others inside."""
    if isinstance(parameter, Params4bit):
        return False
    if isinstance(module, nn.Linear | nn.Embedding | Conv1D):
        return True
    return parameter.dim() == 1 and next(module.children(), None) is None


def token_types(model: nn.Module) -> int:
    """How many texts a family's embedding tells apart within one prompt; 0 where it is not told."""
    for path, module in model.named_modules():
        if path.endswith("token_type_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings
    return 0


def padding_place(model: nn.Module) -> int | None:
    """The position that every padding token has, where a family's texts begin behind it; None where they begin at 0."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.padding_idx
    return None


def bytes_per_parameter(model: nn.Module) -> float:
    """Bytes held for each weight of the quantized layers: packed weights, scales and code tables.

    Raises ValueError when no layer is quantized.
    """
    held = parameters = 0
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state: QuantState = module.weight.quant_state
            held += module.weight.nbytes + _state_bytes(state)
            parameters += module.in_features * module.out_features
    if not parameters:
        raise ValueError("the model has no quantized layer; load it with Quantization(type='nf4')")
    return held / parameters


def _state_bytes(state: QuantState) -> int:
    parts: list[torch.Tensor | None] = [state.absmax, state.code, state.offset]
    nested: QuantState | None = getattr(state, "state2", None)
    own = sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
    return own + (_state_bytes(nested) if nested is not None else 0)
