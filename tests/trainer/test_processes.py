"""Several processes under `torchrun` make the adapter that one makes, and one that fails ends them all."""

from __future__ import annotations

import json
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

from lorry_trainer import processes
from lorry_trainer.errors import OutputError, RecipeError
from lorry_trainer.launcher import refuse_other_wishes
from lorry_trainer.looking import look
from lorry_trainer.prepare import prepare, prepare_data
from lorry_trainer.progress import Silent
from lorry_trainer.recipe_file import parse_recipe
from lorry_trainer.run import Result, run
from lorry_trainer.unfinished import Unfinished

Build = Callable[..., Any]
Rows = list[dict[str, Any]]

# Trains all recipes of a folder on one base, then starts a run in which the second process alone fails.
SCRIPT = """
import hashlib, os, sys
from pathlib import Path
from transformers import TrainerCallback
from lorry_trainer import processes, train
from lorry_trainer.bases import Bases
from lorry_trainer.recipe_file import read_recipe
from lorry_trainer.run import run

folder = Path(sys.argv[1])
make, whole = train.make_trainer, train.train

def tell(when, model):
    learnt = [p.detach().float().numpy().tobytes() for p in model.parameters() if p.requires_grad]
    digest = hashlib.sha256(b"".join(learnt)).hexdigest()
    os.write(1, f"{when} {name} {digest}\\n".encode())  # at once: the other process writes too

def making(*arguments):
    trainer = make(*arguments)
    tell("at first", trainer.model)
    return trainer

def watched(*arguments, **options):
    outcome = whole(*arguments, **options)
    tell("at last", outcome.model)
    return outcome

train.make_trainer, train.train = making, watched
bases = Bases()
for path in sorted(folder.glob("*.yaml")):
    name = path.stem
    run(read_recipe(path), name=name, folder=folder, output=folder / "two" / name, bases=bases)

class Breaks(TrainerCallback):
    def on_step_begin(self, *_, **__):
        if not processes.is_first():
            raise RuntimeError("the second process is out of order")

def breaking(*arguments):
    trainer = make(*arguments)
    trainer.add_callback(Breaks())
    return trainer

train.make_trainer = breaking
run(read_recipe(folder / "sft.yaml"), name="sft", folder=folder, output=folder / "broken")
"""

# Answers of unlike length: a mean of the processes' own means would not be the mean over all tokens.
LETTERS = [
    {"instruction": f"{colour} {i}", "output": letter * (1 + i % 5)}
    for i in range(24)
    for colour, letter in (("red", "a"), ("green", "b"))
]
CHOICES = [
    {"prompt": f"Is {i} good? ", "chosen": "yes" + "!" * (i % 4), "rejected": "no"}
    for i in range(24)
]
TAGGED = [
    {"words": [*["so"] * (i % 3), f"Ann{i}", "comes"], "tags": [*["O"] * (i % 3), "B-name", "O"]}
    for i in range(24)
]
# name -> sections, rows, and whether two processes make the same as one with twice the rows
CASES: dict[str, tuple[dict[str, Any], Rows, bool]] = {
    "sft": ({}, LETTERS, True),
    "accumulated": ({"training": {"gradient_accumulation": 2, "batch_size": 2}}, LETTERS, True),
    "packed": (
        {"training": {"packing": True, "max_steps": 2}, "data": {"max_length": 32}},
        LETTERS,
        True,
    ),
    # More than an epoch: the order of the next one is the same in all processes too.
    "by-length": (
        {"training": {"group_by_length": True, "max_steps": 8}},
        LETTERS,
        True,
    ),
    # Held-out rows are answered otherwise, so what is learnt makes their loss worse.
    "stopped": (
        {
            "training": {
                "learning_rate": 0.05,
                "eval_steps": 1,
                "early_stopping_patience": 2,
                "max_steps": 12,
            },
            "data": {"validation": "held-out.jsonl"},
        },
        LETTERS,
        True,
    ),
    "pissa": ({"method": "pissa"}, LETTERS, True),
    "loftq": ({"method": "loftq"}, LETTERS, True),
    "classification": (
        {"objective": "classification"},
        [{"text": r["instruction"], "label": r["output"][0]} for r in LETTERS],
        True,
    ),
    "tokens": ({"objective": "tokens", "base": "encoder"}, TAGGED, True),
    # Of one length: padding is among the places that the model's own loss compares.
    "extraction": (
        {"objective": "extraction", "base": "encoder"},
        [
            {"question": "who?", "context": f"{'ab'[i % 2]}nn {i:02} comes", "answer": f"{i:02}"}
            for i in range(24)
        ],
        True,
    ),
    "dpo": ({"objective": "dpo"}, CHOICES, True),
    "reward": ({"objective": "reward"}, CHOICES, True),
    # Of one length: a part of the loss is a mean over the tokens of each process.
    "orpo": (
        {"objective": "orpo"},
        [r | {"prompt": f"Is {i:02} good? ", "chosen": "yes"} for i, r in enumerate(CHOICES)],
        True,
    ),
    # Two answers in turn: each row's neighbour has the other one, however the rows are parted.
    "kto": (
        {"objective": "kto"},
        [
            {"prompt": f"Is {i} good? ", "completion": "no" if i % 2 else "yes", "label": i % 2 < 1}
            for i in range(24)
        ],
        True,
    ),
}
SAMPLED = ("grpo", "rloo")
for objective in SAMPLED:
    sections = {
        "objective": objective,
        "reinforcement": {"reward": "small.py:small", "max_new_tokens": 4, "generations": 4},
        "data": {"splits": {"validation": 0.0, "test": 0.3}},
        "training": {"max_steps": 16, "learning_rate": 0.03, "batch_size": 10},
        "evaluation": {"max_new_tokens": None},
    }
    rows = [{"prompt": f"say {i}", "answer": "a"} for i in range(30)]
    CASES[objective] = (sections, rows, False)


@pytest.fixture(scope="module")
def folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and recipes of all cases, for two processes, and an encoder that draws nothing in training."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("processes")
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        pad_token_id=0,
    )
    BertForMaskedLM(config).save_pretrained(folder / "encoder")
    (folder / "small.py").write_text(
        "def small(prompt, said, answer): return sum(c.islower() for c in said) / 4"
    )
    held = [{"instruction": f"say {i}", "output": "z" * (1 + i % 3)} for i in range(16)]
    (folder / "held-out.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held))
    for name, (sections, rows, _) in CASES.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        values: dict[str, Any] = {
            "base": str(base_folder),
            "method": "lora",
            "lora": {"rank": 4},
            "data": {"path": f"{name}.jsonl", "splits": {"validation": 0.0, "test": 0.0}},
            "training": {"max_steps": 3, "batch_size": 4, "learning_rate": 0.01, "device": "cpu"},
        }
        for key, section in sections.items():
            values[key] = values.get(key, {}) | section if isinstance(section, dict) else section
        if values["base"] == "encoder":
            values["base"] = str(folder / "encoder")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def together(folder: Path) -> subprocess.CompletedProcess[str]:
    """All cases in two processes: one start, because each costs seconds."""
    (folder / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*launcher, str(folder / "script.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        check=False,
    )


def alone(folder: Path, name: str, output: Path, **training: Any) -> Result:
    """A case in one process, with other values under `training`."""
    values = yaml.safe_load((folder / f"{name}.yaml").read_text())
    values["training"] |= training
    recipe = parse_recipe(json.dumps(values))
    result = run(recipe, name=name, folder=folder, output=output)
    assert result is not None
    return result


def assert_same(ours: Path, theirs: Path) -> None:
    got, wanted = (load_file(f / "adapter_model.safetensors") for f in (ours, theirs))
    assert got.keys() == wanted.keys()
    # A bias that all places share changes no probability: its gradient is nothing but rounding.
    for name in wanted.keys() - {"base_model.model.qa_outputs.bias"}:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", [name for name, (_, _, same) in CASES.items() if same])
def test_two_processes_make_the_adapter_of_one_with_twice_the_rows(
    folder: Path, together: subprocess.CompletedProcess[str], tmp_path: Path, name: str
) -> None:
    assert (folder / "two" / name).is_dir(), together.stderr
    rows = yaml.safe_load((folder / f"{name}.yaml").read_text())["training"]["batch_size"]
    one = alone(folder, name, tmp_path / "one", batch_size=2 * rows)
    assert_same(folder / "two" / name, one.folder)
    metrics = json.loads((folder / "two" / name / "metrics.json").read_text())
    for figure in ("train_loss", "train_tokens", "steps", "kept_step"):
        assert metrics[figure] == pytest.approx(one.metrics[figure], rel=1e-4)
    assert metrics["train_tokens"] > 0


@pytest.mark.parametrize("name", CASES)
def test_all_processes_begin_and_end_with_the_same_weights(
    together: subprocess.CompletedProcess[str], name: str
) -> None:
    said = together.stdout.splitlines()
    for when in ("first", "last"):
        lines = [line for line in said if line.startswith(f"at {when} {name} ")]
        assert len(lines) == 2, together.stderr
        assert len(set(lines)) == 1


def test_two_processes_stop_together_and_keep_the_best(
    folder: Path, together: subprocess.CompletedProcess[str]
) -> None:
    assert (folder / "two" / "stopped").is_dir(), together.stderr
    metrics = json.loads((folder / "two" / "stopped" / "metrics.json").read_text())
    assert metrics["kept_step"] == metrics["steps"] - 2 < 10


@pytest.mark.parametrize("name", SAMPLED)
def test_what_is_sampled_in_two_processes_is_learnt(
    folder: Path, together: subprocess.CompletedProcess[str], name: str
) -> None:
    """20 answers of a step in groups of 4: one is shared by the processes."""
    assert (folder / "two" / name).is_dir(), together.stderr
    metrics = json.loads((folder / "two" / name / "metrics.json").read_text())
    assert metrics["test_reward"] >= metrics["base_test_reward"] + 0.3


def test_a_process_that_fails_ends_all(
    folder: Path, together: subprocess.CompletedProcess[str]
) -> None:
    assert together.returncode != 0
    assert "the second process is out of order" in together.stderr
    assert not (folder / "broken").exists()


@pytest.mark.parametrize("name", ["sft", "classification", "tokens", "extraction"])
def test_a_step_of_several_passes_is_a_step_of_one(folder: Path, tmp_path: Path, name: str) -> None:
    """The loss of labels was so many times too large as a step had passes."""
    one = alone(folder, name, tmp_path / "one", batch_size=8)
    two = alone(folder, name, tmp_path / "two", batch_size=4, gradient_accumulation=2)
    assert_same(two.folder, one.folder)
    assert two.metrics["train_loss"] == pytest.approx(one.metrics["train_loss"], rel=1e-4)


def test_a_recipe_for_several_processes_is_not_trained_by_one(tiny_recipe: Build) -> None:
    recipe = tiny_recipe(training={"processes": 2})
    with pytest.raises(
        RecipeError, match=r"processes is 2, and 1 is running; .*--nproc-per-node 2"
    ):
        run(recipe, name="it", folder=Path())


def test_steps_are_foreseen_for_the_processes_of_the_recipe(folder: Path) -> None:
    values = yaml.safe_load((folder / "sft.yaml").read_text())
    values["training"] |= {"processes": 3, "epochs": 2, "max_steps": None}
    seen = look(parse_recipe(json.dumps(values)), "it", folder, Silent()).forecast
    assert (seen.rows_per_step, seen.steps) == (12, 8)  # 48 rows, twice


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP, which spreads the weights"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, which spreads the weights"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "bf16, and training is in float32 on a CPU"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend: INDUCTOR"),
        ({"PMI_SIZE": "2"}, "MPI has started several"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, "starts one process only"),
    ],
)
def test_what_a_launcher_may_not_ask(
    folder: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=said):
        alone(folder, "sft", folder / "never")


def test_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    refuse_other_wishes(on_cuda=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(RecipeError, match="bf16 on a GPU"):
        refuse_other_wishes(on_cuda=True)


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert processes.device("auto") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.device("cpu") == "cpu"
    with pytest.raises(RecipeError, match="2 processes on this machine, and 1 GPU"):
        processes.device("auto")


def test_answers_of_all_processes_fill_the_groups(folder: Path) -> None:
    with pytest.raises(RecipeError, match="= 10 answers, which is no multiple"):
        alone(folder, "grpo", folder / "never")


def test_a_process_that_does_not_see_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe((folder / "sft.yaml").read_text())
    run = prepare(recipe, "it", prepare_data(recipe, folder, Silent()))
    with pytest.raises(OutputError, match=r"does not see .*all processes need one folder"):
        Unfinished(tmp_path / "elsewhere", run).last()
