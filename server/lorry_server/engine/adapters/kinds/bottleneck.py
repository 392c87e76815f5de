"""Bottleneck adapters: `y + scaling · up(act(down(y)))` for the output `y` of a linear layer."""

from __future__ import annotations

from lorry_registry.checks import AdapterFiles
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.tensors import Tensors


def read_bottleneck(
    files: AdapterFiles, tensors: Tensors, base: BaseView, into: WeightsBuilder
) -> None:
    """The scale is put into `up`."""
    for path, part in files.parts.bottlenecks.items():
        into.set_bottleneck(
            path,
            files.config.raw["activation"],
            down=tensors.read(part.down_weight),
            down_bias=tensors.read(part.down_bias),
            up=tensors.read(part.up_weight) * part.scaling,
            up_bias=tensors.read(part.up_bias) * part.scaling,
        )
