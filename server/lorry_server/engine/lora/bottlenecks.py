"""Narrow layers after linear ones, for the tokens of the adapters that have them: `y += up · act(down · y)`.

Each adapter's own run of tokens takes its two products; a layer after which nobody in a step has one is not slowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional

from lorry_server.engine.adapters.weights import Bottleneck
from lorry_server.engine.lora.rows import StepRows

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(slots=True)
class BottleneckSlots:
    """What resident adapters have after each linear layer, by its dotted path and their slot."""

    device: torch.device
    layers: dict[str, Mapping[int, Bottleneck]] = field(default_factory=dict)
    """The inner mappings are replaced, never changed: a step may be reading them."""

    def write(self, slot: int, bottlenecks: Mapping[str, Bottleneck]) -> None:
        """Puts an adapter into an empty slot."""
        for path, each in bottlenecks.items():
            own = replace(
                each,
                down=each.down.to(self.device),
                down_bias=each.down_bias.to(self.device),
                up=each.up.to(self.device),
                up_bias=each.up_bias.to(self.device),
            )
            self.layers[path] = {**self.layers.get(path, {}), slot: own}

    def clear(self, slot: int) -> None:
        """Lets go of what a slot has."""
        for path, held in self.layers.items():
            if slot in held:
                self.layers[path] = {other: each for other, each in held.items() if other != slot}

    def add_to(self, path: str, y: torch.Tensor, rows: StepRows) -> None:
        """Adds the step's part to `y` [num_tokens, features], in place."""
        held = self.layers.get(path)
        if not held:
            return
        for run in rows.runs:
            own = held.get(run.slot)
            if own is not None:
                tokens = y[run.start : run.end]
                narrow = functional.linear(tokens, own.down, own.down_bias)
                tokens += functional.linear(
                    ACTIVATIONS[own.activation](narrow), own.up, own.up_bias
                )
