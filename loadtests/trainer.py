"""A training step of `lorry train` against TRL's own trainer on the same recipe: time and peak memory, as ratios.

    python loadtests/trainer.py [--steps 40] [--batch 8]

Both get the same rows, base, adapter, optimizer and seed, in processes of their own that take turns, so that what else
the machine does falls on both. The time is the median step's; memory is the process's peak resident set.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--side", choices=["lorry", "trl"], help="run one side, print its figures")
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(measure(asked.side, asked.steps, asked.batch)))
        return
    found: dict[str, list[dict[str, float]]] = {"lorry": [], "trl": []}
    for _ in range(asked.rounds):
        for side, figures in found.items():
            command = [sys.executable, __file__, "--side", side]
            command += ["--steps", str(asked.steps), "--batch", str(asked.batch)]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            figures.append(json.loads(ran.stdout.splitlines()[-1]))
    print(json.dumps(compare(found), indent=2))


def compare(found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    def least(side: str, figure: str) -> float:
        return min(one[figure] for one in found[side])  # what the machine adds is only ever more

    return {
        "step_seconds_lorry": least("lorry", "step_seconds"),
        "step_seconds_trl": least("trl", "step_seconds"),
        "step_ratio": least("lorry", "step_seconds") / least("trl", "step_seconds"),
        "peak_ratio": least("lorry", "peak_bytes") / least("trl", "peak_bytes"),
        "last_loss_lorry": found["lorry"][0]["last_loss"],
        "last_loss_trl": found["trl"][0]["last_loss"],
    }


def measure(side: str, steps: int, batch: int) -> dict[str, float]:
    from lorry_trainer.quiet import quiet_logs

    quiet_logs()
    from transformers import TrainerCallback

    from lorry_trainer.prepare import prepare, prepare_data
    from lorry_trainer.progress import Silent
    from lorry_trainer.recipe_file import parse_recipe

    recipe = parse_recipe(
        f"data: {{path: intent.jsonl, splits: {{validation: 0, test: 0.1}}}}\n"
        f"training: {{max_steps: {steps}, batch_size: {batch}, eval_steps: {steps}}}"
    )
    run = prepare(recipe, "x", prepare_data(recipe, EXAMPLES, Silent()))
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.started)

    with tempfile.TemporaryDirectory() as scratch:
        if side == "lorry":
            from lorry_trainer.train import train

            outcome = train(run, checkpoints=Path(scratch), progress=Silent(), callbacks=[Clock()])
            last = outcome.train_loss[-1][1]
        else:
            last = _trl_alone(run, scratch, Clock())
    return {
        "step_seconds": statistics.median(times[2:]),  # the first two warm up
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "last_loss": last,
    }


def _trl_alone(run: Any, scratch: str, clock: Any) -> float:
    """As TRL's documentation has it: SFTTrainer, SFTConfig and a LoraConfig."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    recipe = run.recipe
    trainer = SFTTrainer(
        model=run.base.model,
        args=SFTConfig(
            output_dir=scratch,
            max_steps=recipe.training.max_steps,
            per_device_train_batch_size=recipe.training.batch_size,
            learning_rate=recipe.training.learning_rate,
            lr_scheduler_type=recipe.training.schedule,
            warmup_steps=recipe.training.warmup_ratio,
            optim=recipe.training.optimizer,
            seed=recipe.training.seed,
            use_cpu=recipe.training.device == "cpu",
            bf16=recipe.training.device == "cuda",
            gradient_checkpointing=recipe.training.gradient_checkpointing,
            max_length=None,
            completion_only_loss=True,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list([example.record for example in run.data.train]),
        processing_class=run.base.tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe.lora.rank,
            lora_alpha=recipe.lora.alpha,
            target_modules="all-linear",
        ),
        callbacks=[clock],
    )
    trainer.train()
    return float(next(log["loss"] for log in reversed(trainer.state.log_history) if "loss" in log))


if __name__ == "__main__":
    main()
