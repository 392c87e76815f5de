"""(IA)³: each output of a layer, or each input of a feed-forward one, times a learnt factor (arXiv 2205.05638)."""

from __future__ import annotations

from peft import IA3Config, PeftConfig

from lorry_trainer.methods.contract import Peft
from lorry_trainer.recipe import Ia3 as Section
from lorry_trainer.recipe import Recipe


class Ia3(Peft):
    def config(self, recipe: Recipe, task: str) -> PeftConfig:
        ia3 = recipe.ia3 or Section()
        targets, inputs = ia3.target_modules, ia3.feedforward_modules
        if targets is not None and inputs is None:
            inputs = ()
        return IA3Config(
            task_type=task,
            target_modules=list(targets) if targets is not None else None,
            feedforward_modules=list(inputs) if inputs is not None else None,
        )
