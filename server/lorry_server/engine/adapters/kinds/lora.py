"""LoRA, `y + s · B (A x)`, and DoRA, `c + g ⊙ (W x + s · B (A x))` with g the magnitude over the norm of `W + s · B A`.

The norm is a row's (of one output), taken over the weight as it is served: dequantized, once, when the adapter is
read (PEFT's `DoraLinearLayer`). An embedding has one for each feature, over the whole vocabulary.
"""

from __future__ import annotations

import torch

from lorry_registry.checks import AdapterFiles, AdapterModule
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.tensors import Tensors

_TIED_BY_PEFT = "embed_tokens"  # `ensure_weight_tying` knows embeddings by this name alone
_BLOCK_ROWS = 4096  # of an embedding or an output head at a time


def read_lora(files: AdapterFiles, tensors: Tensors, base: BaseView, into: WeightsBuilder) -> None:
    modules = files.parts.modules
    for module in modules.values():
        a, b = tensors.read(module.a), tensors.read(module.b) * module.scaling
        if not module.embedding:
            _read_linear(module, a, b, tensors, base, into)
            continue
        _read_embedding(module, a, b, tensors, base, into)
        ties = files.config.ties_weights and module.path.endswith(_TIED_BY_PEFT)
        head = base.tied_head(module.path) if ties else ""
        if head and head not in modules:
            into.add_to_linear(head, a=b.t(), b=a)


def _read_linear(
    module: AdapterModule,
    a: torch.Tensor,
    b: torch.Tensor,
    tensors: Tensors,
    base: BaseView,
    into: WeightsBuilder,
) -> None:
    out_delta, b_t = None, b.t()
    if module.magnitude:
        gain = tensors.read(module.magnitude) / _row_norms(base.weight(module.path), b, a)
        out_delta, b_t = gain - 1, b_t * gain
    bias = tensors.read(module.bias) * module.scaling if module.bias else None
    into.add_to_linear(module.path, a=a, b=b_t, out_delta=out_delta, bias=bias)
    into.set_scaling(module.path, module.scaling)


def _read_embedding(
    module: AdapterModule,
    a: torch.Tensor,
    b: torch.Tensor,
    tensors: Tensors,
    base: BaseView,
    into: WeightsBuilder,
) -> None:
    """The embedding's own scale (Gemma's) is the engine's to apply: it acts on the update as on the base."""
    out_delta, b_t = None, b.t()
    if module.magnitude:
        weight = base.parameter(f"{module.path}.weight")
        gain = tensors.read(module.magnitude) / _column_norms(weight, a.t(), b_t)
        out_delta, b_t = gain - 1, b_t * gain
    into.add_to_embedding(module.path, a=a.t(), b=b_t, out_delta=out_delta)


def _row_norms(weight: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """[rows] of `weight + b a`."""
    norms = torch.empty(len(weight))
    a = a.to(weight.device)
    for first in range(0, len(weight), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        changed = torch.addmm(weight[block], b[block].to(weight.device), a)
        norms[block] = torch.linalg.vector_norm(changed, dim=1)
    return norms


def _column_norms(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[columns] of `weight + a b`."""
    squares = torch.zeros(weight.shape[1], dtype=torch.float64)
    b = b.to(weight.device)
    for first in range(0, len(weight), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        changed = torch.addmm(weight[block].float(), a[block].to(weight.device), b)
        squares += changed.double().square().sum(0).cpu()
    return squares.sqrt().float()
