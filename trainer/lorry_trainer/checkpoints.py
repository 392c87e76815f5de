"""Checkpoints that hold what is learnt and nothing else, whatever the method.

transformers would write PEFT's own files, which do not bring every adapter back as it was (p-tuning keeps no encoder),
and the whole model where the adapter is none of PEFT's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

LEARNT = "learnt.safetensors"

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


class Checkpoints(_Trainer):  # type: ignore[misc]
    """Stands before a transformers.Trainer among a class's bases."""

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(
                {n: p.detach().contiguous() for n, p in self._learnt().items()}, folder / LEARNT
            )

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        self._take(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._take(self.state.best_model_checkpoint)

    def _take(self, folder: str) -> None:
        kept = load_file(os.path.join(folder, LEARNT))
        learnt = self._learnt()
        if kept.keys() != learnt.keys():
            raise ValueError(f"{folder} is a checkpoint of another adapter")
        with torch.no_grad():
            for name, parameter in learnt.items():
                parameter.copy_(kept[name])

    def _learnt(self) -> dict[str, torch.nn.Parameter]:
        model = self.accelerator.unwrap_model(self.model)
        return {n: p for n, p in model.named_parameters() if p.requires_grad}
