"""TRL's SFTTrainer with a shorter way through the output head on a CPU.

TRL scores only the positions that carry loss where Triton is at hand; elsewhere it scores every position, prompts and
padding too, which was 40 % of a step of `lorry-tiny`. The loss is the same number either way, and a test says so.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from peft import PeftModel
from trl import SFTTrainer

from lorry_trainer.checkpoints import Checkpoints


class Trainer(Checkpoints, SFTTrainer):  # type: ignore[misc]
    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        if (
            return_outputs
            or inputs["input_ids"].is_cuda
            or "attention_mask" not in inputs
            or not self._can_skip_positions()
        ):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        wanted = inputs["labels"][
            :, 1:
        ]  # [batch, length - 1]: what each position should be followed by
        kept = (wanted != -100).any(dim=0).nonzero().squeeze(1)
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=kept,
            use_cache=False,
        ).logits  # [batch, len(kept), vocabulary]
        wanted = wanted[:, kept]
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=-100, reduction="sum"
        )
        if model.training:
            read = self.accelerator.gather(inputs["attention_mask"].sum())  # by each process
            self._total_train_tokens += int(read.sum())
        self._metrics["train" if model.training else "eval"]["num_tokens"] = [
            self._total_train_tokens
        ]
        items = (wanted != -100).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(items).clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # items are those of all processes, and gradients are averaged over them
            loss = loss * self.accelerator.num_processes
        return loss

    def _can_skip_positions(self) -> bool:
        """Not with virtual tokens either: PEFT puts them before the prompt, which moves every position."""
        inner = self.accelerator.unwrap_model(self.model)
        if isinstance(inner, PeftModel):
            if inner.active_peft_config.is_prompt_learning:
                return False
            inner = inner.get_base_model()
        return "logits_to_keep" in inspect.signature(type(inner).forward).parameters
