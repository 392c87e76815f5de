"""Train an adapter on a loaded base. Loop, loss and optimizer are the libraries'; here it is set up and watched.

Knows nothing about files of data, folders of adapters or registries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.integrations import TensorBoardCallback

from lorry_trainer import processes
from lorry_trainer.errors import RecipeError, TrainingError
from lorry_trainer.memory import TRAINING, told_when_out
from lorry_trainer.methods import METHODS
from lorry_trainer.objectives.contract import Setup
from lorry_trainer.order import Order
from lorry_trainer.prepare import Prepared
from lorry_trainer.progress import Progress
from lorry_trainer.recipe import Recipe
from lorry_trainer.targets import linear_layers

Curve = list[tuple[int, float]]  # (step, loss)


@dataclass(frozen=True)
class Outcome:
    model: Any  # the base's model with the adapter that is kept
    train_loss: Curve
    validation_loss: Curve
    steps: int  # that were run
    kept_step: int  # whose adapter is kept: the best one, or the last
    stopped_early: bool
    tokens: int
    seconds: float
    reports: dict[str, float]  # of the trainer's own log, what the objective keeps


def train(
    run: Prepared,
    *,
    checkpoints: Path,
    progress: Progress,
    resume_from: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Outcome:
    """Put a new adapter on the base's model (in place) and train it, from a checkpoint on where one is given.

    The last checkpoint, and the best where validation rows and patience choose it, are kept in the folder
    `checkpoints`. Raises RecipeError, TrainingError, or OutputError.
    """
    recipe = run.recipe
    method = METHODS[recipe.method]
    set_seed(recipe.training.seed)  # the adapter's first weights are drawn below
    watched = _validated(run) and recipe.training.early_stopping_patience > 0
    trainer = make_trainer(run, str(checkpoints), watched)
    trainer.remove_callback(PrinterCallback)
    if recipe.training.tensorboard and processes.is_first():
        from torch.utils.tensorboard import SummaryWriter

        trainer.add_callback(TensorBoardCallback(SummaryWriter(recipe.training.tensorboard)))
    for callback in (Order(), _Watch(progress), *callbacks):
        trainer.add_callback(callback)
    if watched:
        trainer.add_callback(EarlyStoppingCallback(recipe.training.early_stopping_patience))
    for parameter in trainer.model.parameters():
        if (
            parameter.requires_grad
        ):  # TRL makes them bfloat16 on a quantized base; small steps get lost in that
            parameter.data = parameter.data.float()
    trainer.optimizer = method.optimizer(trainer, recipe)

    progress.start("training", run.resolved.total_steps)
    started = time.perf_counter()
    with told_when_out(TRAINING):
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    seconds = time.perf_counter() - started
    state = trainer.state
    best = state.best_global_step if watched and state.best_model_checkpoint else None
    return Outcome(
        model=trainer.model,
        train_loss=_curve(state.log_history, "loss"),
        validation_loss=_curve(state.log_history, "eval_loss"),
        steps=state.global_step,
        kept_step=best or state.global_step,
        stopped_early=state.global_step < state.max_steps,
        tokens=int(max((log.get("num_tokens", 0) for log in state.log_history), default=0)),
        seconds=seconds,
        reports={
            name: float(curve[-1][1])
            for name in run.objective.reports
            if (curve := _curve(state.log_history, name))
        },
    )


def make_trainer(run: Prepared, scratch: str, watched: bool) -> Trainer:
    """The objective's trainer, with the method's adapter on the base's model."""
    recipe, base, validation = run.recipe, run.base, run.data.validation
    try:
        model = METHODS[recipe.method].attach(base, recipe, run.objective.task)
        arguments = _arguments(recipe, run.resolved.total_steps, scratch, _validated(run), watched)
        reward = run.rewards.training
        setup = Setup(base, model, recipe, run.data.train, validation, reward, arguments)
        return run.objective.trainer(setup)
    except ValueError as error:
        # PEFT: no layer has such a name, or the family is unknown; TRL: the head is fused
        if any(part in str(error) for part in ("arget modules", "target_modules", "lm_head")):
            section = recipe.method if recipe.method in ("ia3", "bottleneck") else "lora"
            targets = getattr(recipe, section).target_modules
            raise RecipeError(
                f"{section}.target_modules {targets!r}: {error}. "
                f"Linear layers of {base.name!r}: {', '.join(linear_layers(base))}"
            ) from error
        raise TrainingError(f"the run is refused: {error}") from error


def _validated(run: Prepared) -> bool:
    return bool(run.data.validation) and run.objective.validates


def _arguments(
    recipe: Recipe, total_steps: int, scratch: str, validated: bool, watched: bool
) -> dict[str, Any]:
    t = recipe.training
    on_cuda = t.device == "cuda"
    return {
        "output_dir": scratch,
        "num_train_epochs": t.epochs or 1.0,
        "max_steps": t.max_steps or -1,
        "per_device_train_batch_size": t.batch_size,
        "per_device_eval_batch_size": 2 * t.batch_size,
        "gradient_accumulation_steps": t.gradient_accumulation,
        "learning_rate": t.learning_rate,
        "lr_scheduler_type": t.schedule,
        "warmup_steps": t.warmup_ratio,  # below 1, a share
        "weight_decay": t.weight_decay,
        "max_grad_norm": t.max_grad_norm,
        "neftune_noise_alpha": t.neftune_alpha,
        "optim": t.optimizer,
        "seed": t.seed,
        "use_cpu": not on_cuda,
        "bf16": on_cuda,
        "dataloader_pin_memory": on_cuda,
        "gradient_checkpointing": t.gradient_checkpointing,
        "train_sampling_strategy": "group_by_length" if t.group_by_length else "random",
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": t.eval_steps,
        "save_strategy": "steps",
        "save_steps": t.eval_steps,
        "save_total_limit": 1,
        "restore_callback_states_from_checkpoint": True,
        "load_best_model_at_end": watched,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": _log_every(total_steps // 60, t.eval_steps or 1),
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",  # TensorBoard is added where the recipe names a folder
    }


def _log_every(wanted: int, save_every: int) -> int:
    """A divisor of `save_every`: the loss since the last log is not in a checkpoint, so none may be outstanding."""
    return next(n for n in range(max(1, min(wanted, save_every)), 0, -1) if save_every % n == 0)


def _curve(history: list[dict[str, float]], name: str) -> Curve:
    return [(int(log["step"]), float(log[name])) for log in history if name in log]


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Moves the bar, and ends a run whose loss is no longer a number."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = time.perf_counter()
        self._tokens_before = 0
        self._note: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = time.perf_counter()
        self._tokens_before = int(
            max((log.get("num_tokens", 0) for log in state.log_history), default=0)
        )
        if state.global_step:  # resumed
            self._progress.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.advance(note="  ".join(self._note.values()))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                kind = "validation loss" if name == "eval_loss" else "loss"
                raise TrainingError(
                    f"the {kind} is {logs[name]} at step {state.global_step}, so nothing more can be learnt. Lower "
                    f"training.learning_rate (now {args.learning_rate:g}), raise warmup_ratio, or look at the data"
                )
        if "loss" in logs:
            # Where a reward is earned, it and the way from the bare base say more than the loss.
            for name in ("reward", "kl") if "reward" in logs else ("loss",):
                self._note[name] = f"{name} {logs[name]:.3f}"
            if "num_tokens" in logs:
                passed = time.perf_counter() - self._started
                tokens = logs["num_tokens"] - self._tokens_before
                self._note["speed"] = f"{tokens / passed:,.0f} tokens/s"
        if "eval_loss" in logs:
            self._note["validation"] = f"val {logs['eval_loss']:.3f}"
