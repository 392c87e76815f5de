"""Modules whose own parameters adapters change: norms, of whatever kind.

What such a module computes is its own business, so it runs with other parameters, through torch's functional call:
the decoding sequences of many adapters together, each with its own (`vmap`), a prefill chunk by itself. The base's own
output stays for everybody else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call, vmap

from lorry_server.engine.lora.step import LoraStep


class ParameterSlots:
    """The slots of one module's parameters. Changes its output by a forward hook, there from the first adapter on."""

    def __init__(self, module: nn.Module, axis: int, num_slots: int, step: LoraStep) -> None:
        """`axis` is that of the tokens in the module's input and output."""
        self._axis = axis
        self._step = step
        self._twin = copy.deepcopy(module)  # without the hook
        self._base = {name: p.detach() for name, p in module.named_parameters(recurse=False)}
        self._tables = {  # a row for each slot
            name: torch.empty(num_slots, *p.shape, dtype=p.dtype, device=p.device)
            for name, p in self._base.items()
        }
        self._members: frozenset[int] = frozenset()
        module.register_forward_hook(self._change)

    def write(self, slot: int, deltas: Mapping[str, torch.Tensor]) -> None:
        """`deltas` by the parameter's name in the module; what is missing stays the base's."""
        for name, table in self._tables.items():
            own = self._base[name]
            delta = deltas.get(name)
            table[slot] = own if delta is None else own + delta.to(own.device)
        self._members |= {slot}

    def clear(self, slot: int) -> None:
        if slot in self._members:
            self._members -= {slot}
            for table in self._tables.values():
                table[slot] = 0

    def _change(
        self, module: nn.Module, args: tuple[torch.Tensor, ...], y: torch.Tensor
    ) -> torch.Tensor | None:
        rows = self._step.tokens
        picked = None if rows is None else rows.pick(self._members)
        if rows is None or picked is None:
            return None
        x, changed, axis = args[0], y.clone(), self._axis
        for tokens, slot in picked.long_runs:
            own = {name: table[slot] for name, table in self._tables.items()}
            part = functional_call(self._twin, own, (x.movedim(axis, 0)[tokens].movedim(0, axis),))
            changed.movedim(axis, 0)[tokens] = part.movedim(axis, 0)
        if picked.short is not None:
            short = picked.short
            own = {name: table[short.slots] for name, table in self._tables.items()}
            run = vmap(self._run, in_dims=(0, axis), out_dims=axis)
            changed.index_copy_(axis, short.tokens, run(own, x.index_select(axis, short.tokens)))
        return changed

    def _run(self, parameters: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = functional_call(self._twin, dict(parameters), (x,))
        return y
