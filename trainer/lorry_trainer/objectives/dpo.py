"""Direct preference optimization, against the bare base as the reference."""

from __future__ import annotations

from trl import DPOConfig, DPOTrainer

from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.objectives.contract import Setup, dataset, reference
from lorry_trainer.objectives.preference import Paired, beta_of


class Trainer(Checkpoints, DPOTrainer):  # type: ignore[misc]
    pass


class Dpo(Paired):
    def trainer(self, setup: Setup) -> Trainer:
        return Trainer(
            model=setup.model,
            args=DPOConfig(
                **setup.arguments,
                **reference(setup),
                beta=beta_of(setup),
                max_length=None,  # longer rows were refused before; nothing is cut
            ),
            train_dataset=dataset(setup.rows),
            eval_dataset=dataset(setup.validation) if setup.validation else None,
            processing_class=setup.base.tokenizer,
        )


OBJECTIVE = Dpo
