"""A training step of `lorry train` against the same recipe without Lorry: time and peak memory, as ratios.

    python loadtests/trainer.py [--objective sft|dpo|classification] [--steps 40] [--batch 8] [--rounds 3]

The other side is TRL's SFTTrainer or DPOTrainer, or transformers' Trainer with PEFT, as their documentation has it.
Both get the same rows, base, adapter, optimizer and seed, in processes of their own that take turns, so that what else
the machine does falls on both. Both read the same batches: a step's time is its least in all rounds; memory is the
process's peak resident set; steal is the share of the machine that others took meanwhile.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "trainer" / "lorry_trainer" / "examples"
ROUNDS = 3
RECIPES = {
    "sft": "data: {path: intent.jsonl",
    "dpo": "objective: dpo\ndata: {path: objectives/polite.jsonl",
    "classification": "objective: classification\n"
    "data: {path: intent.jsonl, columns: {text: context, label: output}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objective", choices=list(RECIPES), default="sft")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--side", choices=["lorry", "alone"], help="run one side, print its figures"
    )
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(measure(asked.side, asked.objective, asked.steps, asked.batch)))
        return
    found: dict[str, list[dict[str, Any]]] = {"lorry": [], "alone": []}
    for _ in range(asked.rounds):
        for side, figures in found.items():
            command = [sys.executable, __file__, "--side", side]
            command += ["--objective", asked.objective]
            command += ["--steps", str(asked.steps), "--batch", str(asked.batch)]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            figures.append(json.loads(ran.stdout.splitlines()[-1]))
    print(json.dumps(compare(found), indent=2))


def compare(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """What the machine adds is only ever more, so the least of each step counts."""

    def step(side: str) -> float:
        rounds = zip(*(one["times"] for one in found[side]), strict=True)
        return statistics.mean(map(min, rounds))

    def peak(side: str) -> float:
        return min(one["peak_bytes"] for one in found[side])

    def steal(side: str) -> float:
        return statistics.mean(one["steal"] for one in found[side])

    return {
        "step_seconds_lorry": step("lorry"),
        "step_seconds_alone": step("alone"),
        "step_ratio": step("lorry") / step("alone"),
        "peak_ratio": peak("lorry") / peak("alone"),
        "last_loss_lorry": found["lorry"][0]["last_loss"],
        "last_loss_alone": found["alone"][0]["last_loss"],
        "steal_lorry": steal("lorry"),
        "steal_alone": steal("alone"),
    }


def measure(side: str, objective: str, steps: int, batch: int) -> dict[str, Any]:
    from lorry_trainer.quiet import quiet_logs

    quiet_logs()
    from transformers import TrainerCallback

    from lorry_trainer.prepare import prepare, prepare_data
    from lorry_trainer.progress import Silent
    from lorry_trainer.recipe_file import parse_recipe

    recipe = parse_recipe(
        f"{RECIPES[objective]}, splits: {{validation: 0, test: 0.1}}}}\n"
        f"training: {{max_steps: {steps}, batch_size: {batch}, eval_steps: {steps}}}"
    )
    run = prepare(recipe, "x", prepare_data(recipe, EXAMPLES, Silent()))
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.started)

    ticks = _ticks()
    with tempfile.TemporaryDirectory() as scratch:
        if side == "lorry":
            from lorry_trainer.train import train

            outcome = train(run, checkpoints=Path(scratch), progress=Silent(), callbacks=[Clock()])
            last = outcome.train_loss[-1][1]
        else:
            trainer = _ALONE[objective](run, scratch)
            trainer.add_callback(Clock())
            trainer.train()
            logs = reversed(trainer.state.log_history)
            last = float(next(log["loss"] for log in logs if "loss" in log))
        taken, passed = (after - before for before, after in zip(ticks, _ticks(), strict=True))
    return {
        "times": times[2:],  # the first two warm up
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "last_loss": last,
        "steal": taken / max(passed, 1),
    }


def _ticks() -> tuple[int, int]:
    """Of all processors since the machine started: those that others took, and all."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    ticks = list(map(int, first.split()[1:9]))
    return ticks[7], sum(ticks)


def _arguments(recipe: Any, scratch: str) -> dict[str, Any]:
    return {
        "output_dir": scratch,
        "max_steps": recipe.training.max_steps,
        "per_device_train_batch_size": recipe.training.batch_size,
        "learning_rate": recipe.training.learning_rate,
        "lr_scheduler_type": recipe.training.schedule,
        "warmup_steps": recipe.training.warmup_ratio,
        "optim": recipe.training.optimizer,
        "seed": recipe.training.seed,
        "use_cpu": recipe.training.device == "cpu",
        "bf16": recipe.training.device == "cuda",
        "gradient_checkpointing": recipe.training.gradient_checkpointing,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }


def _lora(recipe: Any, task: str, **more: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type=task,
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        target_modules="all-linear",
        **more,
    )


def _rows(run: Any) -> Any:
    from datasets import Dataset

    return Dataset.from_list([example.record for example in run.data.train])


def _sft(run: Any, scratch: str) -> Any:
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=run.base.model,
        args=SFTConfig(
            **_arguments(run.recipe, scratch), max_length=None, completion_only_loss=True
        ),
        train_dataset=_rows(run),
        processing_class=run.base.tokenizer,
        peft_config=_lora(run.recipe, "CAUSAL_LM"),
    )


def _dpo(run: Any, scratch: str) -> Any:
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model=run.base.model,
        args=DPOConfig(**_arguments(run.recipe, scratch), max_length=None, beta=0.1),
        train_dataset=_rows(run),
        processing_class=run.base.tokenizer,
        peft_config=_lora(run.recipe, "CAUSAL_LM"),
    )


def _classification(run: Any, scratch: str) -> Any:
    from peft import get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    set_seed(run.recipe.training.seed)
    tokenizer, model = run.base.tokenizer, run.base.model
    config = _lora(run.recipe, "SEQ_CLS", exclude_modules=["score"], modules_to_save=["score"])

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        return dict(tokenizer(row["text"])) | {"labels": model.config.label2id[row["label"]]}

    rows = _rows(run)
    return Trainer(
        model=get_peft_model(model, config),
        args=TrainingArguments(**_arguments(run.recipe, scratch)),
        train_dataset=rows.map(encoded, remove_columns=rows.column_names),
        data_collator=DataCollatorWithPadding(tokenizer),
    )


_ALONE = {"sft": _sft, "dpo": _dpo, "classification": _classification}


if __name__ == "__main__":
    main()
