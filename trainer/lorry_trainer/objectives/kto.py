"""Kahneman-Tversky optimization: from answers that are good or bad, each by itself."""

from __future__ import annotations

import random

from trl import KTOConfig, KTOTrainer

from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.objectives.contract import Setup, dataset, reference
from lorry_trainer.objectives.preference import Judged, beta_of


class Trainer(Checkpoints, KTOTrainer):  # type: ignore[misc]
    pass


class Kto(Judged):
    def trainer(self, setup: Setup) -> Trainer:
        # A row's answer is held against its neighbours' prompts, so these must be the same in every pass: rows are
        # mixed once, and then keep their order.
        rows = random.Random(setup.recipe.training.seed).sample(setup.rows, len(setup.rows))
        arguments = setup.arguments | {"train_sampling_strategy": "sequential"}
        return Trainer(
            model=setup.model,
            args=KTOConfig(
                **arguments,
                **reference(setup),
                beta=beta_of(setup),
                max_length=None,  # longer rows were refused before; nothing is cut
            ),
            train_dataset=dataset(rows),
            eval_dataset=dataset(setup.validation) if setup.validation else None,
            processing_class=setup.base.tokenizer,
        )


OBJECTIVE = Kto
