"""Odds-ratio preference optimization: the chosen answer is learnt and set against the rejected one; no reference."""

from __future__ import annotations

from typing import Any

from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from lorry_trainer.checkpoints import Checkpoints
from lorry_trainer.objectives.contract import Setup, dataset
from lorry_trainer.objectives.preference import Paired, beta_of


class Trainer(Checkpoints, ORPOTrainer):  # type: ignore[misc]
    """TRL's, which counts no tokens."""

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        read = inputs["chosen_attention_mask"].sum() + inputs["rejected_attention_mask"].sum()
        self.state.num_input_tokens_seen += int(self.accelerator.gather(read).sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs | {"num_tokens": self.state.num_input_tokens_seen}, start_time)


class Orpo(Paired):
    def trainer(self, setup: Setup) -> Trainer:
        return Trainer(
            model=setup.model,
            args=ORPOConfig(
                **setup.arguments,
                beta=beta_of(setup),
                max_length=setup.recipe.data.max_length,
                disable_dropout=not setup.recipe.lora.dropout,
            ),
            train_dataset=dataset(setup.rows),
            eval_dataset=dataset(setup.validation) if setup.validation else None,
            processing_class=setup.base.tokenizer,
        )


OBJECTIVE = Orpo
