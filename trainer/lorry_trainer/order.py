"""The order of the training rows: it follows from the seed and the number of the epoch alone.

Left to the libraries, rows by length are drawn from each process's own random state, and groups of answers go on from
those before. A run that was broken off would then read other rows than one that was not, and several processes would
not share an epoch's rows out.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler


class Order(TrainerCallback):  # type: ignore[misc]
    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any, **_: Any
    ) -> None:
        sampler = train_dataloader.batch_sampler
        while inner := getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None):
            sampler = inner
        if hasattr(sampler, "set_epoch"):  # accelerate's own, which does all this
            return
        if hasattr(sampler, "generator"):
            epoch = int(state.epoch or 0)
            sampler.generator = torch.Generator().manual_seed(args.seed + epoch)
        if isinstance(sampler, LengthGroupedSampler):
            # Rows of like length are to meet in a step, which is that of all processes.
            rows = args.train_batch_size * args.gradient_accumulation_steps
            sampler.batch_size = rows * args.world_size
