"""IA³: `l ⊙ (W x + c)`, or `W (l ⊙ x) + c` in a feed-forward module."""

from __future__ import annotations

from lorry_registry.checks import AdapterFiles
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.tensors import Tensors


def read_ia3(files: AdapterFiles, tensors: Tensors, base: BaseView, into: WeightsBuilder) -> None:
    for path, scale in files.parts.scales.items():
        delta = tensors.read(scale.tensor).flatten() - 1
        if scale.of_input:
            into.add_to_linear(path, in_delta=delta)
            continue
        bias = base.bias(path)
        into.add_to_linear(
            path, out_delta=delta, bias=None if bias is None else delta * bias.to(delta.device)
        )
