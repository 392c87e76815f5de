"""The tensors of an adapter's file, read one at a time, and none forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lorry_registry.checks import WEIGHTS_FILE


class Tensors:
    """Keeps count of what was read: what nobody asks for would have no effect."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._unread = set(file.keys())

    def stored(self, name: str) -> torch.Tensor:
        """A tensor in the type that it has in the file."""
        self._unread.discard(name)
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def read(self, name: str) -> torch.Tensor:
        """A tensor in float32."""
        return self.stored(name).float()

    @property
    def unread(self) -> list[str]:
        return sorted(self._unread)


@contextmanager
def open_tensors(folder: Path) -> Iterator[Tensors]:
    """The tensors of an adapter folder."""
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        yield Tensors(file)
