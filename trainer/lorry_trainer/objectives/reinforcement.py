"""Reinforcement learning from a reward: what two ways to estimate the advantage share.

Answers are sampled, judged, and made likelier or less likely, held to the bare base by a penalty on the KL divergence
from it, which is reported, and ends the run where it leaves its bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from transformers import TrainerCallback

from lorry_bases import Quantization
from lorry_bases.load import Base, load_base
from lorry_trainer import processes
from lorry_trainer.data import Examples
from lorry_trainer.errors import DataError, RecipeError
from lorry_trainer.formats.contract import Example
from lorry_trainer.objectives.answers import answered
from lorry_trainer.objectives.contract import Scores, Segments, Setup, reference
from lorry_trainer.progress import Progress
from lorry_trainer.prompts import count_tokens, refuse_base_without
from lorry_trainer.recipe import Recipe
from lorry_trainer.wording import counted


class Reinforcement:
    """A subclass says with which trainer."""

    task: ClassVar[str] = "CAUSAL_LM"
    metrics: ClassVar[tuple[str, ...]] = ("reward", "win_rate")
    generates: ClassVar[bool] = True
    sequences: ClassVar[int] = 1
    validates: ClassVar[bool] = False  # to sample for them costs as much as to train
    reports: ClassVar[tuple[str, ...]] = ("kl",)

    def load(
        self, recipe: Recipe, data: Examples, quantization: Quantization, device: str | None
    ) -> Base:
        return load_base(recipe.base, quantization=quantization, device=device)

    def refuse(self, base: Base, data: Examples, recipe: Recipe) -> None:
        assert recipe.reinforcement is not None  # the recipe's own rule
        together = processes.together(recipe.training.processes)
        batch = _answers_per_step(recipe)
        if batch % recipe.reinforcement.generations:
            several = " · processes" if together > 1 else ""
            raise RecipeError(
                f"a step has batch_size · gradient_accumulation{several} = {batch} answers, which is no multiple of "
                f"reinforcement.generations = {recipe.reinforcement.generations}; every prompt needs as many"
            )
        prompts = batch // recipe.reinforcement.generations
        if len(data.train) < prompts:
            raise DataError(
                f"a step takes {recipe.reinforcement.generations} answers to each of {prompts} prompts, and there are "
                f"{counted(len(data.train), 'training row')}; add rows, or lower training.batch_size or "
                "gradient_accumulation"
            )
        refuse_base_without(base.tokenizer, data.all(), base.name)

    def lengths(self, base: Base, rows: list[Example], recipe: Recipe) -> list[int]:
        """With the longest answer that may be sampled: both must have room in the context."""
        assert recipe.reinforcement is not None  # the recipe's own rule
        prompts = count_tokens(base.tokenizer, [row.prompt for row in rows])
        return [count + recipe.reinforcement.max_new_tokens for count in prompts]

    def rows_per_epoch(self, base: Base, rows: list[Example], recipe: Recipe, limit: int) -> int:
        """Prompts that are too few for a step are left to another pass."""
        batch = _answers_per_step(recipe)
        assert recipe.reinforcement is not None  # the recipe's own rule
        return len(rows) * recipe.reinforcement.generations // batch * batch

    def answer_length(self, base: Base, rows: list[Example]) -> int:
        return 0

    def preview(self, trainer: Any) -> list[Segments]:
        """The prompts: what is learnt is not there yet."""
        return [
            [(prompt if isinstance(prompt, str) else prompt[-1]["content"], False)]
            for prompt in trainer.train_dataset["prompt"]
        ]

    def score(
        self,
        base: Base,
        model: Any,
        rows: list[Example],
        data: Examples,
        recipe: Recipe,
        progress: Progress,
    ) -> Scores:
        """Greedy answers, which the recipe's reward says all of."""
        return Scores({}, answered(base, model, rows, recipe, progress))

    def arguments(self, setup: Setup) -> dict[str, Any]:
        """For TRL's configuration."""
        learning = setup.recipe.reinforcement
        assert learning is not None
        return (
            setup.arguments
            | reference(setup)
            | {
                "num_generations": learning.generations,
                "max_completion_length": learning.max_new_tokens,
                "temperature": learning.temperature,
                "beta": learning.kl_penalty,
            }
        )

    def judge(self, setup: Setup) -> Callable[..., list[float]]:
        """The reward as TRL asks for it."""
        assert setup.reward is not None  # `prepare` found it
        given = setup.reward.judge

        def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
            said = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
            return given(prompts, said, columns["answer"])

        return reward


def _answers_per_step(recipe: Recipe) -> int:
    training = recipe.training
    together = processes.together(training.processes)
    return training.batch_size * training.gradient_accumulation * together


class BoundKl(TrainerCallback):  # type: ignore[misc]
    """Ends a run that has gone too far from the bare base."""

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if logs.get("kl", 0.0) > self._bound:
            control.should_training_stop = True
