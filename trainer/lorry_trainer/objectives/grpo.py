"""Group-relative policy optimization: an answer against the mean of its group (Shao et al. 2024, arXiv 2402.03300)."""

from __future__ import annotations

from trl import GRPOConfig, GRPOTrainer

from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.objectives.contract import Setup, dataset
from lorry_trainer.objectives.reinforcement import BoundKl, Reinforcement


class Trainer(Checkpoints, GRPOTrainer):  # type: ignore[misc]
    pass


class Grpo(Reinforcement):
    def trainer(self, setup: Setup) -> Trainer:
        assert setup.recipe.reinforcement is not None  # the recipe's own rule
        return Trainer(
            model=setup.model,
            args=GRPOConfig(**self.arguments(setup)),
            reward_funcs=self.judge(setup),
            train_dataset=dataset(setup.rows),
            processing_class=setup.base.tokenizer,
            callbacks=[BoundKl(setup.recipe.reinforcement.max_kl)],
        )


OBJECTIVE = Grpo
