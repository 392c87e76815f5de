"""REINFORCE leave-one-out: an answer against the mean of the others (Ahmadian et al. 2024, arXiv 2402.14740)."""

from __future__ import annotations

from trl import RLOOConfig, RLOOTrainer

from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.objectives.contract import Setup, dataset
from lorry_trainer.objectives.reinforcement import BoundKl, Reinforcement


class Trainer(Checkpoints, RLOOTrainer):  # type: ignore[misc]
    pass


class Rloo(Reinforcement):
    def trainer(self, setup: Setup) -> Trainer:
        assert setup.recipe.reinforcement is not None  # the recipe's own rule
        return Trainer(
            model=setup.model,
            args=RLOOConfig(**self.arguments(setup)),
            reward_funcs=self.judge(setup),
            train_dataset=dataset(setup.rows),
            processing_class=setup.base.tokenizer,
            callbacks=[BoundKl(setup.recipe.reinforcement.max_kl)],
        )


OBJECTIVE = Rloo
