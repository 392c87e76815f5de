"""The whole way on a random base: what is written, that PEFT loads it, that it is the same twice."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorry_bases import Quantization, fingerprint
from lorry_bases.load import load_base
from lorry_trainer import prepare
from lorry_trainer.errors import DataError, OutputError, RecipeError, TrainingError
from lorry_trainer.progress import Silent
from lorry_trainer.recipe_file import read_recipe
from lorry_trainer.run import Result, run
from lorry_trainer.train import Outcome

Write = Callable[..., Path]
Build = Callable[..., Any]
Rows = list[dict[str, Any]]

FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "lineage.json",
    "loss.png",
    "metrics.json",
    "recipe.yaml",
    "report.html",
}


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    def start(recipe: Any, output: str = "out", **options: Any) -> Result:
        return run(recipe, name="letters", folder=tmp_path, output=tmp_path / output, **options)

    return start


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Collects what training hands back, which `run` does not."""
    from lorry_trainer import train

    seen: list[Outcome] = []
    original = train.train

    def watched(*arguments: Any, **options: Any) -> Outcome:
        seen.append(original(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(train, "train", watched)
    return seen


def test_an_adapter_folder(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    base_folder: Path,
    tmp_path: Path,
    trained: list[Outcome],
) -> None:
    rows = write_rows(letter_rows)
    mask = os.umask(0o027)
    try:
        result = go(tiny_recipe(description="Three letters."))
    finally:
        os.umask(mask)
    folder = result.folder
    assert {f.name for f in folder.iterdir()} == FILES
    # As the umask has it: one was 0600, and later all 0644 whatever it said.
    assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o640}
    assert folder.stat().st_mode & 0o777 == 0o750
    assert not list(tmp_path.glob(".out*"))

    # What PEFT loads acts as what was trained.
    from peft import PeftModel

    base = load_base(str(base_folder), quantization=Quantization(type="none"), device="cpu")
    loaded = PeftModel.from_pretrained(base.model, folder)
    ids = torch.arange(10, 30)[None]
    with torch.inference_mode():
        wanted, got = trained[0].model.eval()(ids).logits, loaded(ids).logits
        with loaded.disable_adapter():
            bare = loaded(ids).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    assert (got - bare).abs().max() > 1e-3

    # No path of this machine is in it.
    config = read_json(folder / "adapter_config.json")
    assert config["base_model_name_or_path"] == "tiny-random"
    assert config["target_modules"] == sorted(config["target_modules"])
    written = "".join(p.read_text() for p in folder.iterdir() if p.suffix in {".md", ".json"})
    assert str(base_folder) not in written.replace(f"base: {base_folder}", "")

    metrics = read_json(folder / "metrics.json")
    assert metrics == result.metrics
    assert {"base_test_exact_match", "test_exact_match", "test_token_f1", "test_rows"} <= set(
        metrics
    )
    assert metrics["steps"] == 4
    assert math.isfinite(metrics["train_loss"] + metrics["validation_loss"])

    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (folder / "loss.png").stat().st_size > 5_000
    assert "Three letters." in (folder / "README.md").read_text(encoding="utf-8")

    from google.protobuf import json_format

    from lorry.registry.v1 import resources_pb2

    made = json_format.Parse((folder / "lineage.json").read_bytes(), resources_pb2.Lineage())
    assert made.base_fingerprint == fingerprint(
        base_folder
    )  # as served: NF4, though trained in full
    assert made.base_name == "tiny-random"
    assert made.recipe == (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert [d.split for d in made.datasets] == ["train", "validation", "test"]
    assert sum(d.row_count for d in made.datasets) == len(letter_rows)
    assert {d.digest for d in made.datasets} == {
        "sha256:" + hashlib.sha256(rows.read_bytes()).hexdigest()
    }
    assert dict(made.metrics) == pytest.approx(metrics)
    assert made.producer.startswith("lorry-trainer ")


def test_the_same_recipe_twice_gives_the_same_bytes(
    go: Callable[..., Result], write_rows: Write, letter_rows: Rows, tiny_recipe: Build
) -> None:
    write_rows(letter_rows)
    first = digests(go(tiny_recipe(), "one").folder)
    assert first == digests(go(tiny_recipe(), "two").folder)
    other = digests(go(tiny_recipe(training={"seed": 5}), "three").folder)
    assert other["adapter_model.safetensors"] != first["adapter_model.safetensors"]


def test_it_learns(go: Callable[..., Result], write_rows: Write, tiny_recipe: Build) -> None:
    """A random base gets from nothing to the right letter in a few seconds."""
    words = {"red": "a", "green": "b", "blue": "c"}
    write_rows([{"instruction": f"{w} {i}", "output": words[w]} for i in range(40) for w in words])
    result = go(
        tiny_recipe(
            lora={"rank": 8},
            training={"max_steps": 100, "batch_size": 16},
            evaluation={"max_rows": 50},
        )
    )
    assert result.metrics["base_test_exact_match"] == 0
    assert result.metrics["test_exact_match"] >= 0.6


def test_qlora_trains_on_double_quantized_nf4_layers(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    base_folder: Path,
    trained: list[Outcome],
) -> None:
    from bitsandbytes.nn import Linear4bit

    write_rows(letter_rows)
    folder = go(tiny_recipe(method="qlora")).folder
    model = trained[0].model
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 14  # seven in each of two blocks
    assert all(
        m.weight.quant_state.quant_type == "nf4" and m.weight.quant_state.nested for m in layers
    )
    factors = {n: p for n, p in model.named_parameters() if "lora_B" in n}
    assert len(factors) == 14
    assert all(p.dtype == torch.float32 and p.abs().max() > 0 for p in factors.values())
    assert read_json(folder / "lineage.json")["baseFingerprint"] == fingerprint(base_folder)
    assert "double: true" in (folder / "recipe.yaml").read_text()


def test_early_stopping_keeps_the_best(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    trained: list[Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A learning rate this high ruins the adapter after a good start."""
    said: list[str] = []
    monkeypatch.setattr(Silent, "say", lambda _, line: said.append(line))
    write_rows(letter_rows)
    hard = {
        "max_steps": 60,
        "learning_rate": 0.3,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "eval_steps": 2,
        "early_stopping_patience": 2,
    }
    result = go(tiny_recipe(training=hard))
    outcome = trained[0]
    losses = dict(outcome.validation_loss)
    best = min(losses, key=lambda step: losses[step])
    assert outcome.steps < 60
    assert outcome.kept_step == best == outcome.steps - 4
    assert f"stopped early at step {outcome.steps} of 60; step {best} is kept" in said
    assert result.metrics["validation_loss"] == losses[best]
    # The weights are the best step's too, not the last's: a run that ends there has the same.
    again = go(
        tiny_recipe(training=hard | {"max_steps": best, "early_stopping_patience": 0}), "short"
    )
    name = "adapter_model.safetensors"
    assert digests(again.folder)[name] == digests(result.folder)[name]


def test_a_loss_that_is_no_number_ends_the_run(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = prepare.load_base

    def poisoned(*arguments: Any) -> Any:
        base = load(*arguments)
        base.model.model.norm.weight.data[0] = math.nan
        return base

    monkeypatch.setattr(prepare, "load_base", poisoned)
    write_rows(letter_rows)
    with pytest.raises(TrainingError, match=r"the bare base's loss .* is nan: .*another base"):
        go(tiny_recipe())
    without_score = {"splits": {"test": 0}}
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1\D.*learning_rate"):
        go(tiny_recipe(data=without_score))
    assert not (tmp_path / "out").exists()


def test_a_learning_rate_that_is_too_high_ends_the_run(
    go: Callable[..., Result],
    write_rows: Write,
    tiny_recipe: Build,
    tmp_path: Path,
) -> None:
    """A real one: nobody has put the numbers there."""
    write_rows([{"instruction": f"name city {i}", "output": f"City {i}."} for i in range(40)])
    wild = {"learning_rate": 1.0, "warmup_ratio": 0.0, "schedule": "constant", "max_grad_norm": 1e9}
    steps = {"max_steps": 40, "batch_size": 4, "early_stopping_patience": 0}
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step .*learning_rate \(now 1\)"):
        go(
            tiny_recipe(
                base="lorry-tiny",
                method="rslora",
                training=wild | steps,
                evaluation={"max_rows": 2},
                lora={"rank": 16, "alpha": 1000.0},
            )
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "where", "way_out"),
    [
        (MemoryError(), "trl.SFTTrainer.train", "training.batch_size"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
            "trl.SFTTrainer.train",
            "training.gradient_checkpointing",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "trl.SFTTrainer.train", "data.max_length"),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            "lorry_trainer.objectives.sft.answered",
            "evaluation.batch_size",
        ),
    ],
)
def test_memory_that_runs_out_is_answered_with_what_to_change(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    where: str,
    way_out: str,
) -> None:
    """Only CUDA's in training was; the CPU's came out as an unknown RuntimeError."""

    def full(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(where, full)
    write_rows(letter_rows)
    with pytest.raises(TrainingError, match=f"memory ran out: .*{way_out}"):
        go(tiny_recipe())


def test_no_test_rows_no_score(
    go: Callable[..., Result], write_rows: Write, tiny_recipe: Build
) -> None:
    write_rows([{"instruction": "a", "output": "b"}])
    data = {"splits": {"validation": 0, "test": 0}}
    result = go(tiny_recipe(data=data, training={"max_steps": 1}))
    assert not [name for name in result.metrics if "test" in name]
    assert "held-out" not in (result.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("sections", "error", "part"),
    [
        ({"data": {"path": "none.jsonl"}}, DataError, "none.jsonl: no such file"),
        ({"base": "no-such-base"}, RecipeError, "base: base 'no-such-base'"),
        ({"data": {"max_length": 4096}}, RecipeError, "data.max_length is 4096"),
        ({"data": {"max_length": 8}}, DataError, "60 of 60 rows are longer than 8 tokens"),
        ({"lora": {"target_modules": ["nope"]}}, RecipeError, "Linear layers of"),
        (
            {"lora": {"target_modules": ["q_proj", "v_prj"]}},
            RecipeError,
            "lora.target_modules 'v_prj': no layer of",
        ),
        ({"lora": {"exclude_modules": ["x"]}}, RecipeError, "lora.exclude_modules 'x': no layer"),
        ({"lora": {"target_modules": ["lm_head"]}}, RecipeError, "lm_head"),
    ],
)
def test_what_cannot_be_done_is_refused(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    sections: dict[str, Any],
    error: type[Exception],
    part: str,
    tmp_path: Path,
) -> None:
    write_rows(letter_rows)
    with pytest.raises(error) as caught:
        go(tiny_recipe(**sections))
    assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_chat_that_the_template_refuses(
    go: Callable[..., Result], write_rows: Write, tiny_recipe: Build
) -> None:
    turns = [("user", "a"), ("system", "b"), ("assistant", "c")]
    write_rows([{"messages": [{"role": r, "content": c} for r, c in turns]}])
    with pytest.raises(DataError, match=r"line 1: the chat template of .* system must come first"):
        go(tiny_recipe(data={"splits": {"validation": 0, "test": 0}}))


def test_a_base_without_a_chat_template(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = prepare.load_base

    def bare(*arguments: Any) -> Any:
        base = load(*arguments)
        base.tokenizer.chat_template = None
        return replace(base)

    monkeypatch.setattr(prepare, "load_base", bare)
    write_rows(letter_rows)
    with pytest.raises(DataError, match="has no chat template"):
        go(tiny_recipe())
    write_rows([{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(40)])
    assert go(tiny_recipe(training={"max_steps": 1})).folder.is_dir()


def test_a_folder_that_is_there_is_replaced_on_demand_only(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    tmp_path: Path,
) -> None:
    write_rows(letter_rows)
    recipe = tiny_recipe(training={"max_steps": 1}, data={"splits": {"validation": 0, "test": 0}})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="--overwrite"):
        go(recipe)
    with pytest.raises(OutputError, match="is not an adapter folder"):
        go(recipe, overwrite=True)
    go(recipe, "other")
    with pytest.raises(OutputError, match="exists"):
        go(recipe, "other")
    (tmp_path / "other" / "stale.txt").write_text("")
    assert {f.name for f in go(recipe, "other", overwrite=True).folder.iterdir()} == FILES


def test_the_base_with_shots_what_is_forgotten_and_one_page_of_it(
    go: Callable[..., Result],
    write_rows: Write,
    letter_rows: Rows,
    tiny_recipe: Build,
    tmp_path: Path,
) -> None:
    write_rows(letter_rows)
    (tmp_path / "general.txt").write_text("It was a bright cold day in April. " * 20)
    asked = {"shots": 2, "general": "general.txt"}
    require = {"accuracy": {"min": 0.999, "above_base": 0.1}, "loss": {"below_base": 0}}
    result = go(tiny_recipe(evaluation=asked, require=require))
    metrics = result.metrics
    assert metrics["base_shots_test_loss"] != metrics["base_test_loss"]
    assert metrics["base_general_perplexity"] != metrics["general_perplexity"]
    assert metrics["test_accuracy_low"] <= metrics["test_accuracy"] <= metrics["test_accuracy_high"]
    assert [said.partition(" ")[0] for said in result.missed] == ["accuracy", "accuracy"]
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2  # the curve, and the confusion of labels
    assert "Not met: accuracy is" in page
    assert "base, shots" in page
    assert "http" not in page.replace("http-equiv", "")  # all of it is in the file
    lineage = read_json(result.folder / "lineage.json")
    assert lineage["metrics"]["general_perplexity"] == metrics["general_perplexity"]


def test_plain_text_is_judged_by_its_perplexity(
    go: Callable[..., Result], write_rows: Write, tiny_recipe: Build
) -> None:
    write_rows([{"text": f"the {i} the {i} the {i}"} for i in range(60)])
    recipe = tiny_recipe(training={"max_steps": 10}, evaluation={"max_new_tokens": None})
    result = go(recipe)
    written = read_recipe(result.folder / "recipe.yaml")
    assert written.evaluation.max_new_tokens is None
    assert (written.evaluation.metric, result.metric) == ("loss", "loss")
    assert result.metrics["test_perplexity"] < result.metrics["base_test_perplexity"]
    assert "test_exact_match" not in result.metrics


def test_a_recipe_of_plain_text_makes_the_same_adapter_again(
    go: Callable[..., Result], write_rows: Write, tiny_recipe: Build
) -> None:
    """The written one asked for exact_match, which plain text has not, and was refused."""
    write_rows([{"text": f"the {i} the {i} the {i}"} for i in range(60)])
    first = go(tiny_recipe(training={"max_steps": 2}, evaluation={"max_new_tokens": None}), "a")
    again = go(read_recipe(first.folder / "recipe.yaml"), "b")
    weights = "adapter_model.safetensors"
    assert digests(first.folder)[weights] == digests(again.folder)[weights]
    assert first.metrics == again.metrics


@pytest.mark.parametrize(
    ("rows", "sections", "part"),
    [
        ("texts", {}, "evaluation.max_new_tokens: rows of plain text ask nothing"),
        (
            "texts",
            {"evaluation": {"max_new_tokens": None, "shots": 2}},
            "evaluation.shots: rows of plain text ask nothing",
        ),
        (
            "texts",
            {"evaluation": {"max_new_tokens": None, "metric": "bleu"}},
            "bleu is not measured here: rows of plain text have no answers",
        ),
        ("letters", {"evaluation": {"metric": "bleu"}}, "the answers are labels"),
        ("letters", {"require": {"rouge_l": {"min": 0.5}}}, "rouge_l is not measured here"),
        ("sums", {"require": {"f1": {"min": 0.5}}}, "name them as data.labels"),
        (
            "letters",
            {"data": {"splits": {"test": 0}}, "require": {"f1": {"min": 0.5}}},
            "require: there are no test rows",
        ),
        (
            "letters",
            {"data": {"splits": {"validation": 0}}, "training": {"early_stopping_patience": 5}},
            "there are no validation rows to stop by",
        ),
    ],
)
def test_a_key_that_says_nothing_to_these_rows(
    go: Callable[..., Result],
    write_rows: Write,
    tiny_recipe: Build,
    letter_rows: Rows,
    rows: str,
    sections: dict[str, Any],
    part: str,
) -> None:
    """Each was passed over in silence, or told after training."""
    kinds = {
        "letters": letter_rows,
        "texts": [{"text": f"the {i} the {i}"} for i in range(40)],
        "sums": [{"instruction": f"{i} + 1", "output": f"it is {i + 1}"} for i in range(40)],
    }
    write_rows(kinds[rows])
    with pytest.raises(RecipeError) as caught:
        go(tiny_recipe(**sections))
    assert part in str(caught.value)
