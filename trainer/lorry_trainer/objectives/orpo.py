"""Odds-ratio preference optimization: the chosen answer is learnt and set against the rejected one; no reference."""

from __future__ import annotations

from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.objectives.contract import Setup, dataset
from lorry_trainer.objectives.preference import Paired, beta_of


class Trainer(Checkpoints, ORPOTrainer):  # type: ignore[misc]
    pass


class Orpo(Paired):
    def trainer(self, setup: Setup) -> Trainer:
        return Trainer(
            model=setup.model,
            args=ORPOConfig(
                **setup.arguments,
                beta=beta_of(setup),
                max_length=setup.recipe.data.max_length,
            ),
            train_dataset=dataset(setup.rows),
            eval_dataset=dataset(setup.validation) if setup.validation else None,
            processing_class=setup.base.tokenizer,
        )


OBJECTIVE = Orpo
