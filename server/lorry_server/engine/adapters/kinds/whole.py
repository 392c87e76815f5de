"""Norms and embeddings of tokens alone: what these kinds have is what any kind may bring, and `saved` reads it."""

from __future__ import annotations

from lorry_registry.checks import AdapterFiles
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.tensors import Tensors


def read_whole(
    _files: AdapterFiles, _tensors: Tensors, _base: BaseView, _into: WeightsBuilder
) -> None:
    """Nothing is left for it."""
