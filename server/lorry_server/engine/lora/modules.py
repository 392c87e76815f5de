"""The modules that are no linear layers, as far as resident adapters act on them: embeddings, and norms of any kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters.weights import EmbeddingUpdate
from lorry_server.engine.lora.axes import TokenAxes
from lorry_server.engine.lora.embeddings import EmbeddingSlots
from lorry_server.engine.lora.parameters import ParameterSlots
from lorry_server.engine.lora.step import LoraStep


class ModuleSlots:
    """A module is touched when the first adapter comes that acts on it; before, it runs as the model has it."""

    def __init__(self, model: nn.Module, num_slots: int, step: LoraStep, axes: TokenAxes) -> None:
        self._modules = dict(model.named_modules())
        self._num_slots = num_slots
        self._step = step
        self._axes = axes
        self._embeddings: dict[str, EmbeddingSlots] = {}
        self._others: dict[str, ParameterSlots] = {}

    def write(
        self,
        slot: int,
        embeddings: Mapping[str, EmbeddingUpdate],
        parameters: Mapping[str, torch.Tensor],
    ) -> None:
        """Puts an adapter into an empty slot.

        Raises FailedPrecondition where it changes a module that runs for all tokens alike.
        """
        for path, update in embeddings.items():
            if path not in self._embeddings:
                self._embeddings[path] = EmbeddingSlots(self._modules[path], self._step)
            self._embeddings[path].write(slot, update)
        by_module: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for path, delta in parameters.items():
            module, _, name = path.rpartition(".")
            by_module[module][name] = delta
        for path, deltas in by_module.items():
            self._other(path).write(slot, deltas)

    def clear(self, slot: int) -> None:
        for embedding in self._embeddings.values():
            embedding.clear(slot)
        for other in self._others.values():
            other.clear(slot)

    def _other(self, path: str) -> ParameterSlots:
        if path not in self._others:
            axis = self._axes.of(path)
            if axis is None:
                raise FailedPrecondition(
                    f"The adapter changes the parameters of {path}, which cannot differ from request to request in "
                    "this base: train without it, or serve the merged model as a base of its own.",
                    reason="MODULE_NOT_SERVABLE",
                    module=path,
                )
            module = self._modules[path]
            self._others[path] = ParameterSlots(module, axis, self._num_slots, self._step)
        return self._others[path]
