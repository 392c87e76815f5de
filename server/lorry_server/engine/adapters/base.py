"""What reading an adapter may ask of the base that it acts on: its layers and their weights, as they were loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorry_bases.shapes import ParameterShape, parameter_shapes
from lorry_registry.checks import Base, LinearModule, Parameter
from lorry_server.engine.attention import KVShape


class BaseView:
    """A base before anything is put beside its layers. Read from several threads; nothing in it changes."""

    def __init__(
        self,
        model: PreTrainedModel,
        linear_shapes: Mapping[str, tuple[int, int]],
        max_rank: int,
        caches: Mapping[int, KVShape],
        parameters: Iterable[ParameterShape] | None = None,
    ) -> None:
        """`parameters` are those that adapters may change or bring, where they are not the model's own."""
        self.caches = caches  # what each layer caches for a token
        self._modules = dict(model.named_modules())
        self._linears = frozenset(linear_shapes)
        self.head = next(
            (p for p, m in self._modules.items() if m is model.get_output_embeddings()), ""
        )
        self.entity = Base(
            fingerprint="",
            display_name=type(model).__name__,
            architecture=type(model).__name__,
            quantization="",
            modules=tuple(LinearModule(path, *shape) for path, shape in linear_shapes.items()),
            max_rank=max_rank,
            context_length=0,
            parameters=tuple(
                Parameter(each.path, each.shape, each.tied_to)
                for each in (parameter_shapes(model) if parameters is None else parameters)
            ),
        )
        self._heads = {each.path for each in self.entity.parameters if each.is_heads}
        self._tied = {each.path: each.tied_to for each in self.entity.parameters}

    def is_linear(self, path: str) -> bool:
        return path in self._linears

    def is_heads(self, path: str) -> bool:
        """Whether a parameter is one that the base does not have, and each adapter brings."""
        return path in self._heads

    def is_embedding(self, path: str) -> bool:
        return isinstance(self._modules.get(path), nn.Embedding)

    def weight(self, path: str) -> torch.Tensor:
        """[out_features, in_features] float32: a linear layer's weight, dequantized where it is 4-bit."""
        layer = self._modules[path]
        weight = cast(nn.Parameter, layer.weight).detach()
        if isinstance(layer.weight, Params4bit):
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return (weight.t() if isinstance(layer, Conv1D) else weight).float()

    def bias(self, path: str) -> torch.Tensor | None:
        """[out_features] float32."""
        bias = cast(nn.Parameter | None, getattr(self._modules[path], "bias", None))
        return None if bias is None else bias.detach().float()

    def parameter(self, path: str) -> torch.Tensor:
        """One of those in `entity.parameters`, as it is stored."""
        module, _, name = path.rpartition(".")
        return cast(nn.Parameter, getattr(self._modules[module], name)).detach()

    def is_transposed(self, path: str) -> bool:
        """Whether a linear layer stores its weight as [in_features, out_features]."""
        return isinstance(self._modules[path], Conv1D)

    def tied_head(self, embedding: str) -> str:
        """The path of the output head that shares its weight with an embedding; "" where none does."""
        shares = self._tied.get(f"{self.head}.weight") == f"{embedding}.weight"
        return self.head if shares else ""
