"""A run that is broken off, at any moment and by anything, goes on to the same bytes as one that was not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from transformers import TrainerCallback

from lorry_trainer import checkpoints, train
from lorry_trainer import run as module
from lorry_trainer.errors import OutputError, RecipeError
from lorry_trainer.run import Result, run

Write = Callable[..., Path]
Build = Callable[..., Any]
Rows = list[dict[str, Any]]

# Dropout and a shuffled order depend on the random state, Adam on its moments, patience on what was measured.
LONG = {"max_steps": 12, "eval_steps": 3, "early_stopping_patience": 2, "weight_decay": 0.01}


@pytest.fixture
def recipe(tiny_recipe: Build, write_rows: Write, letter_rows: Rows) -> Any:
    write_rows(letter_rows)
    return tiny_recipe(training=LONG, lora={"dropout": 0.2})


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def go(recipe: Any, folder: Path, output: str, **options: Any) -> Result:
    return run(recipe, name="letters", folder=folder, output=folder / output, **options)


class Breaks(TrainerCallback):  # type: ignore[misc]
    """Raises within a step, the way that Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 7])
def test_an_interrupt_loses_no_more_than_steps_since_the_last_checkpoint(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    make = train.make_trainer

    def breaking(*arguments: Any) -> Any:
        trainer = make(*arguments)
        trainer.add_callback(Breaks(step))
        return trainer

    monkeypatch.setattr(train, "make_trainer", breaking)
    with pytest.raises(KeyboardInterrupt):
        go(recipe, tmp_path, "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(train, "make_trainer", make)
    resumed = go(recipe, tmp_path, "out", resume=True)
    assert digests(resumed.folder) == digests(go(recipe, tmp_path, "whole").folder)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "training",
    [
        {"max_steps": 9, "eval_steps": 3, "schedule": "constant"},
        {"max_steps": None, "epochs": 1.5},
        {"max_steps": None, "epochs": 2},
        LONG,
    ],
)
def test_broken_off_when_all_is_learnt_it_learns_no_more(
    tiny_recipe: Build,
    write_rows: Write,
    letter_rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    training: dict[str, Any],
) -> None:
    """One more step was run where the last one was within a pass: another adapter, of ten steps for nine."""
    write_rows(letter_rows)
    recipe = tiny_recipe(training=training)
    scored = module.score

    def breaking(run_: Any, model: Any, progress: Any, stage: str, *rest: Any) -> Any:
        if stage == "scoring adapter":
            raise KeyboardInterrupt
        return scored(run_, model, progress, stage, *rest)

    monkeypatch.setattr(module, "score", breaking)
    with pytest.raises(KeyboardInterrupt):
        go(recipe, tmp_path, "out")
    monkeypatch.setattr(module, "score", scored)
    resumed = go(recipe, tmp_path, "out", resume=True)
    assert digests(resumed.folder) == digests(go(recipe, tmp_path, "whole").folder)


def test_killed_and_resumed_is_as_never_killed(recipe: Any, tmp_path: Path) -> None:
    """SIGKILL, from outside, while the process trains."""
    long = {"max_steps": 100, "early_stopping_patience": 0}
    longer = recipe.model_copy(update={"training": recipe.training.model_copy(update=long)})
    path = tmp_path / "letters.yaml"
    path.write_text(yaml.safe_dump(longer.model_dump(mode="json", exclude_defaults=True)))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lorry_client",
            "train",
            str(path),
            "--output",
            str(tmp_path / "out"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    kept = tmp_path / ".out.checkpoints"
    while process.poll() is None and not list(kept.glob("checkpoint-*/trainer_state.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    # What is left is of a run of 100 steps, and no other may take it.
    with pytest.raises(RecipeError, match="of a run that differs in its recipe"):
        go(recipe, tmp_path, "out", resume=True)
    resumed = go(longer, tmp_path, "out", resume=True)
    whole = go(longer, tmp_path, "whole")
    assert digests(resumed.folder) == digests(whole.folder)


# order of the rows -> how many there are, and sections; the checkpoint of step 9 is within a later epoch
ORDERS: dict[str, tuple[int, dict[str, Any]]] = {
    "by length": (60, {"training": {"group_by_length": True}}),
    "by groups": (
        16,
        {
            "objective": "grpo",
            "reinforcement": {"reward": "small.py:small", "max_new_tokens": 2},
            "evaluation": {"max_new_tokens": None, "max_rows": 4},
            "data": {"columns": {"prompt": "instruction", "answer": "output"}},
        },
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_a_later_epoch_come_as_if_nothing_had_been_broken_off(
    tiny_recipe: Build,
    write_rows: Write,
    letter_rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
) -> None:
    """Rows by length were drawn from a random state that a resumed run has not, and groups of answers went on from the
    groups before, which it has not seen."""
    count, sections = ORDERS[order]
    (tmp_path / "small.py").write_text(
        "def small(prompt, said, answer): return sum(c.islower() for c in said) / 2"
    )
    rows = letter_rows[:count]
    write_rows([row | {"output": row["output"] * (1 + i % 7)} for i, row in enumerate(rows)])
    training = LONG | {"early_stopping_patience": 0} | sections.get("training", {})
    recipe = tiny_recipe(**sections | {"training": training, "lora": {"dropout": 0.2}})
    make = train.make_trainer

    def breaking(*arguments: Any) -> Any:
        trainer = make(*arguments)
        trainer.add_callback(Breaks(11))
        return trainer

    monkeypatch.setattr(train, "make_trainer", breaking)
    with pytest.raises(KeyboardInterrupt):
        go(recipe, tmp_path, "out")
    monkeypatch.setattr(train, "make_trainer", make)
    resumed = go(recipe, tmp_path, "out", resume=True)
    assert digests(resumed.folder) == digests(go(recipe, tmp_path, "whole").folder)


# Either dies at a step, all processes at once, or goes on from there and then trains once more without a break.
TOGETHER = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from lorry_trainer import train
from lorry_trainer.recipe_file import read_recipe
from lorry_trainer.run import run

folder, dies = Path(sys.argv[1]), len(sys.argv) > 2
recipe = read_recipe(folder / "letters.yaml")

class Dies(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 10:
            os.kill(os.getpid(), signal.SIGKILL)

make = train.make_trainer
def dying(*arguments):
    trainer = make(*arguments)
    trainer.add_callback(Dies())
    return trainer

if dies:
    train.make_trainer = dying
run(recipe, name="letters", folder=folder, output=folder / "out", resume=not dies)
run(recipe, name="letters", folder=folder, output=folder / "whole")
"""


def test_two_processes_go_on_as_if_they_had_never_been_killed(recipe: Any, tmp_path: Path) -> None:
    """All of them by SIGKILL, within a later epoch."""
    whole = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"batch_size": 4})}
    )
    path = tmp_path / "letters.yaml"
    path.write_text(yaml.safe_dump(whole.model_dump(mode="json", exclude_defaults=True)))
    (tmp_path / "script.py").write_text(TOGETHER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

    def start(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*launcher, str(tmp_path / "script.py"), str(tmp_path), *more],
            capture_output=True,
            text=True,
            timeout=200,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            check=False,
        )

    killed = start("dies")
    assert "SIGKILL" in killed.stderr
    kept = tmp_path / ".out.checkpoints"
    assert not (tmp_path / "out").exists()
    assert json.loads((kept / "checkpoint-9" / "trainer_state.json").read_text())["epoch"] > 1
    # What is left is of two processes, and one may not take it.
    with pytest.raises(RecipeError, match="of a run that differs in its number of processes"):
        go(whole, tmp_path, "out", resume=True)
    resumed = start()
    assert resumed.returncode == 0, resumed.stderr
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert "processes: 2" in (tmp_path / "out" / "recipe.yaml").read_text()
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_during_a_checkpoint_leaves_the_one_before(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = checkpoints.save_file, []

    def full(*arguments: Any, **options: Any) -> None:
        saved.append(arguments)
        if len(saved) == 2:
            Path(arguments[1]).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OutputError, match=r"checkpoint of step 6 .*No space left.*--resume"):
        go(recipe, tmp_path, "out")
    kept = tmp_path / ".out.checkpoints"
    assert [path.name for path in kept.glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = go(recipe, tmp_path, "out", resume=True)
    assert digests(resumed.folder) == digests(go(recipe, tmp_path, "whole").folder)


def test_half_a_checkpoint_is_passed_over(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorry_trainer.unfinished.Unfinished.discard", lambda self: None)
    go(recipe, tmp_path, "out")
    kept = tmp_path / ".out.checkpoints"
    half = kept / "checkpoint-99"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 9')
    resumed = go(recipe, tmp_path, "out", resume=True, overwrite=True)
    assert not half.exists()
    assert json.loads((resumed.folder / "metrics.json").read_text())["steps"] <= 12


def test_resume_without_anything_to_resume_starts(recipe: Any, tmp_path: Path) -> None:
    assert go(recipe, tmp_path, "out", resume=True).folder.is_dir()


def test_a_run_with_another_reward_takes_no_checkpoint(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the name of the file was looked at: a run went on half trained for what the file said before."""
    judge = tmp_path / "judge.py"
    judge.write_text("def judge(*row): return 1.0")
    values = recipe.model_dump()
    values["evaluation"] |= {"reward": "judge.py:judge"}
    rewarded = type(recipe).model_validate(values)
    make = train.make_trainer

    def breaking(*arguments: Any) -> Any:
        trainer = make(*arguments)
        trainer.add_callback(Breaks(4))
        return trainer

    with monkeypatch.context() as broken:
        broken.setattr(train, "make_trainer", breaking)
        with pytest.raises(KeyboardInterrupt):
            go(rewarded, tmp_path, "out")
    judge.write_text("def judge(*row): return 2.0")
    with pytest.raises(RecipeError, match="of a run that differs in its reward"):
        go(rewarded, tmp_path, "out", resume=True)


def test_sigterm_takes_away_what_is_half_written(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended the process at once, and the half of a folder stayed."""
    from rich.console import Console

    from lorry_trainer import write
    from lorry_trainer.cli.loading import interruption

    original = write.write

    def ended(*arguments: Any) -> None:
        original(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(write, "write", ended)
    with pytest.raises(typer.Exit) as caught, interruption(Console(quiet=True), ""):
        go(recipe, tmp_path, "out")
    assert caught.value.exit_code == 143
    assert [path.name for path in tmp_path.glob("*out*")] == [".out.checkpoints"]
    monkeypatch.setattr(write, "write", original)
    assert go(recipe, tmp_path, "out", resume=True).folder.is_dir()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
