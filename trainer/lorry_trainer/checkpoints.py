"""Checkpoints that hold what is learnt and nothing else, whatever the method.

transformers would write PEFT's own files, which do not bring every adapter back as it was (p-tuning keeps no encoder),
and the whole model where the adapter is none of PEFT's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lorry_trainer.errors import OutputError

LEARNT = "learnt.safetensors"

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


class Checkpoints(_Trainer):  # type: ignore[misc]
    """Stands before a transformers.Trainer among a class's bases."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """All of a checkpoint, or none of it: what a full disk leaves behind is taken away again."""
        try:
            super()._save_checkpoint(model, trial)
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch and safetensors have their own
            step = self.state.global_step
            folder = Path(self.args.output_dir)
            shutil.rmtree(folder / f"{PREFIX_CHECKPOINT_DIR}-{step}", ignore_errors=True)
            free = shutil.disk_usage(folder).free if folder.exists() else 0
            raise OutputError(
                f"the checkpoint of step {step} cannot be written to {folder} ({error}; {free / 2**20:,.0f} MiB are "
                "free there). Make room, then go on from the last one with --resume"
            ) from error

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            learnt = {n: p.detach().contiguous() for n, p in self._learnt().items()}
            seen = str(getattr(self, "_total_train_tokens", 0))
            save_file(learnt, folder / LEARNT, metadata={"tokens": seen})

    def _save_rng_state(self, output_dir: str) -> None:
        """Each process its own. The trainer's state, which says that a checkpoint is whole, comes after all of them."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        self._take(resume_from_checkpoint)
        with safe_open(os.path.join(resume_from_checkpoint, LEARNT), "pt") as kept:
            self._total_train_tokens = int(kept.metadata()["tokens"])

    def _run_epoch(self, **how: Any) -> None:
        """transformers would do one more step where what it goes on from had ended within a pass."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**how)

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
