"""In which dimension a module has its tokens, seen by watching it run on inputs of several lengths.

Most norms see [1, num_tokens, features]; some see the heads first (Gemma 3's of queries and keys).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class TokenAxes:
    """What was seen of each module that has none inside."""

    def __init__(self) -> None:
        self._seen: dict[str, set[tuple[int, ...]]] = {}

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """While the model runs, in this block, on inputs of different lengths."""
        hooks = [
            module.register_forward_hook(self._note(path))
            for path, module in model.named_modules()
            if next(module.children(), None) is None
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def of(self, path: str) -> int | None:
        """None where a module takes or gives anything but one tensor of one shape, or never ran."""
        shapes = sorted(self._seen.get(path, ()))
        if len({len(shape) for shape in shapes}) != 1:
            return None
        varying = [
            axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len({*sizes}) > 1
        ]
        return varying[0] if len(varying) == 1 else None

    def _note(self, path: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], y: Any) -> None:
            plain = len(args) == 1 and all(isinstance(each, torch.Tensor) for each in (*args, y))
            same = plain and args[0].shape == y.shape
            # Shapes of different length are told apart from everything: such a module has no axis.
            self._seen.setdefault(path, set()).add(tuple(y.shape) if same else ())

        return note
