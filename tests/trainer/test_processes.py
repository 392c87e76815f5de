"""Several processes under `torchrun` make the adapter that one makes, and one that fails ends them all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lorry_trainer.errors import RecipeError
from lorry_trainer.run import run

Write = Callable[..., Path]
Build = Callable[..., Any]
Rows = list[dict[str, Any]]

# Trains to the end in all processes, then starts a run in which the second process alone fails.
SCRIPT = """
import sys
from pathlib import Path
from transformers import TrainerCallback
from lorry_trainer import processes, train
from lorry_trainer.recipe_file import read_recipe
from lorry_trainer.run import run

folder = Path(sys.argv[1])
recipe = read_recipe(folder / "letters.yaml")
result = run(recipe, name="letters", folder=folder, output=folder / "two")
print(f"result of {processes.count()}: {type(result).__name__}", flush=True)

class Breaks(TrainerCallback):
    def on_step_begin(self, *_, **__):
        if not processes.is_first():
            raise RuntimeError("the second process is out of order")

make = train.make_trainer
def breaking(*arguments):
    trainer = make(*arguments)
    trainer.add_callback(Breaks())
    return trainer
train.make_trainer = breaking
run(recipe, name="letters", folder=folder, output=folder / "broken")
"""


def test_two_processes_make_the_adapter_of_one_with_twice_the_rows(
    tiny_recipe: Build, write_rows: Write, letter_rows: Rows, tmp_path: Path
) -> None:
    # Answers of unlike length: a mean of the processes' own means would not be the mean over all tokens.
    write_rows([row | {"output": row["output"] * (1 + i % 5)} for i, row in enumerate(letter_rows)])
    one = tiny_recipe(training={"batch_size": 8}, data={"labels": "any"})
    two = tiny_recipe(training={"batch_size": 4}, data={"labels": "any"})
    (tmp_path / "letters.yaml").write_text(yaml.safe_dump(two.model_dump(exclude_none=True)))
    run(one, name="letters", folder=tmp_path, output=tmp_path / "one")
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("result"))
    assert said == ["result of 2: NoneType", "result of 2: Result"], done.stderr
    ours = load_file(tmp_path / "two" / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-4)
    assert done.returncode != 0
    assert "the second process is out of order" in done.stderr
    assert not (tmp_path / "broken").exists()


def test_several_processes_do_not_resume(
    tiny_recipe: Build, write_rows: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"2 processes .* --resume is for one alone"):
        run(tiny_recipe(), name="letters", folder=tmp_path, resume=True)
