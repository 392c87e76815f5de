"""`lorry train`: what goes where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from lorry_client import Login
from lorry_client.cli.session import Session
from lorry_trainer import cli

Write = Callable[..., Path]
Build = Callable[..., Any]
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    app = typer.Typer()

    @app.callback()
    def lorry() -> None:
        """As in `lorry`, train is one command among others."""

    cli.register(app)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lorry_trainer.quiet.quiet_logs", lambda: None)  # it is for a whole process
    monkeypatch.delenv("LORRY_SERVER", raising=False)

    def run(*arguments: str, command: str = "train", **options: Any) -> Result:
        return CliRunner().invoke(app, [command, *arguments], **options)

    return run


@pytest.fixture
def recipe_file(
    tiny_recipe: Build, write_rows: Write, letter_rows: list[dict[str, Any]], tmp_path: Path
) -> Path:
    write_rows(letter_rows)
    recipe = tiny_recipe(training={"max_steps": 1}, description="Letters.")
    path = tmp_path / "letters.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True)))
    return path


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for a client whose server would take everything, and remembers what it was asked to push."""
    calls: list[dict[str, Any]] = []

    class Client:
        def __init__(self, server: str | None, login: Login) -> None:
            self.server, self.login = server, login

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

        def push(self, folder: Path, name: str, **options: Any) -> SimpleNamespace:
            where = {"server": self.server, "token": self.login.token}
            calls.append({"folder": folder, "name": name} | where | options)
            return SimpleNamespace(reference=f"default/{name}@sha256:00")

    monkeypatch.setattr("lorry_client.client.Client", Client)
    monkeypatch.setattr("lorry_trainer.preflight.check_destination", lambda *_: None)
    return calls


def test_the_folder_on_stdout_and_the_scores_on_stderr(invoke: Invoke, recipe_file: Path) -> None:
    done = invoke(str(recipe_file))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "adapters/letters\n"
    assert Path("adapters/letters/adapter_model.safetensors").is_file()
    assert "exact_match" in done.stderr
    assert "adapter" in done.stderr


def test_json_is_one_object(invoke: Invoke, recipe_file: Path) -> None:
    done = invoke(str(recipe_file), "--json", "--output", "here")
    told = json.loads(done.stdout)
    assert told["output"] == "here"
    assert told["reference"] is None
    assert told["metrics"]["steps"] == 1
    assert set(told["seconds"]) >= {"train", "score_base", "score_adapter"}


def test_push_prints_the_reference(
    invoke: Invoke, recipe_file: Path, pushed: list[dict[str, Any]]
) -> None:
    """With the token of `lorry --token`, which was not passed on once."""
    done = invoke(
        str(recipe_file), "--push", "letters", "--alias", "production",
        "--server", "example:7070", obj=Session(login=Login("secret")),
    )  # fmt: skip
    assert done.stdout == "default/letters@sha256:00\n"
    assert pushed == [
        {
            "folder": Path("adapters/letters"),
            "name": "letters",
            "server": "example:7070",
            "token": "secret",
            "alias": "production",
            "description": "Letters.",
        }
    ]


def test_what_is_required_decides_over_the_alias(
    invoke: Invoke, recipe_file: Path, pushed: list[dict[str, Any]]
) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text + "require: {exact_match: {min: 0.99}}\n")
    done = invoke(str(recipe_file), "--push", "letters", "--alias", "production")
    assert done.exit_code == 1
    assert done.stdout == "default/letters@sha256:00\n"
    assert "'production' does not point at it" in done.stderr
    assert "at least 0.99 is required" in done.stderr
    recipe_file.write_text(text + "require: {exact_match: {min: 0}}\n")
    again = invoke(str(recipe_file), "--push", "letters", "--alias", "production", "--overwrite")
    assert again.exit_code == 0
    assert [call["alias"] for call in pushed] == [None, "production"]


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("lorra: {}\ndata: {path: rows.jsonl}\n", 2, "did you mean lora?"),
        ("data: {path: none.jsonl}\n", 2, "none.jsonl: no such file"),
        ("data: {path: rows.jsonl}\nbase: nope\n", 2, "base: base 'nope'"),
    ],
)
def test_faults_of_the_recipe_end_with_2(
    invoke: Invoke, recipe_file: Path, text: str, code: int, part: str
) -> None:
    recipe_file.write_text(text)
    done = invoke(str(recipe_file))
    assert done.exit_code == code
    assert part in done.stderr
    assert done.stdout == ""


def test_a_taken_folder_ends_with_1(invoke: Invoke, recipe_file: Path) -> None:
    assert invoke(str(recipe_file)).exit_code == 0
    again = invoke(str(recipe_file))
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert invoke(str(recipe_file), "--overwrite").exit_code == 0


def test_an_alias_without_push_is_a_usage_error(invoke: Invoke, recipe_file: Path) -> None:
    assert invoke(str(recipe_file), "--alias", "x").exit_code == 2


def test_check_says_what_is_wrong_and_trains_nothing(invoke: Invoke, recipe_file: Path) -> None:
    done = invoke(str(recipe_file), "--check")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{recipe_file}: nothing is wrong with it\n"
    recipe_file.write_text(
        recipe_file.read_text().replace("rank: 4", "rank: 4\n  target_modules: [x]")
    )
    refused = invoke(str(recipe_file), "--check")
    assert refused.exit_code == 2
    assert "Linear layers of" in refused.stderr
    assert not Path("adapters").exists()


def test_a_dry_run_foresees_rows_steps_and_memory(invoke: Invoke, recipe_file: Path) -> None:
    told = json.loads(invoke(str(recipe_file), "--dry-run", "--json").stdout)
    assert told["steps"] == 1
    assert told["labels"] == 3
    assert told["train_rows"] + told["validation_rows"] + told["test_rows"] == 60
    layers = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)  # of the random base
    assert told["base_bytes"] > 4 * layers
    ranks = 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)  # in + out of every layer, times the rank
    assert told["learnt_parameters"] == ranks
    assert told["learnt_bytes"] == 16 * ranks
    assert told["total_bytes"] > told["base_bytes"]
    assert told["base_bytes_per_parameter"] is None
    text = invoke(str(recipe_file), "--dry-run").stdout
    assert "MiB" in text


def test_a_preview_marks_what_carries_loss(invoke: Invoke, recipe_file: Path) -> None:
    done = invoke(str(recipe_file), "--preview")
    first = done.stdout.partition("\n")[0]
    assert first.startswith("<|user|>")
    assert first.endswith("<|assistant|>[[b<|end|>]]")
    assert done.stdout.count("[[") == 3


def test_several_recipes_on_one_load_of_the_base(
    invoke: Invoke, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorry_bases import load

    alone = invoke(str(recipe_file))
    assert alone.exit_code == 0, alone.stderr
    weights = Path("adapters/letters/adapter_model.safetensors")
    trained_alone = weights.read_bytes()
    other = recipe_file.with_name("others.yaml")
    other.write_text(recipe_file.read_text().replace("rank: 4", "rank: 2"))
    loads: list[str] = []
    original = load.load_base

    def counted(base: str, **options: Any) -> Any:
        loads.append(base)
        return original(base, **options)

    monkeypatch.setattr("lorry_trainer.objectives.sft.load_base", counted)
    done = invoke(str(other), str(recipe_file), "--overwrite")
    assert done.stdout.splitlines() == ["adapters/others", "adapters/letters"]
    assert len(loads) == 1
    assert weights.read_bytes() == trained_alone  # the first run left nothing on the base
    assert invoke(str(other), str(recipe_file), "--push", "x").exit_code == 2


def test_a_recipe_that_misses_what_it_requires_stops_no_other(
    invoke: Invoke, recipe_file: Path
) -> None:
    """The second one was not trained."""
    other = recipe_file.with_name("others.yaml")
    other.write_text(recipe_file.read_text() + "require: {exact_match: {min: 1, above_base: 1}}\n")
    done = invoke(str(other), str(recipe_file))
    assert done.exit_code == 1
    assert done.stdout.splitlines() == ["adapters/others", "adapters/letters"]
    assert "required and not met: exact_match" in done.stderr


def test_no_recipe_writes_over_another_s_adapter(invoke: Invoke, recipe_file: Path) -> None:
    """With --overwrite the second took the first one's place, and without it was refused once the first was trained."""
    for way in ([], ["--overwrite"]):
        done = invoke(str(recipe_file), str(recipe_file), *way)
        assert done.exit_code == 2
        assert "both write adapters/letters: give one of them another" in done.stderr
    assert not Path("adapters").exists()


@pytest.mark.parametrize("command", ["train", "search"])
def test_an_interrupt_says_how_to_go_on(
    invoke: Invoke, recipe_file: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search, which has no --resume, named it, below a page of a library's traceback."""

    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lorry_trainer.train.train", broken)
    monkeypatch.setattr("lorry_trainer.search.train", broken)
    text = recipe_file.read_text()
    recipe_file.write_text(text + "search: {values: {lora.rank: {choices: [2, 4]}}}\n")
    done = invoke(str(recipe_file), command=command)
    assert done.exit_code == 130
    way_on = {
        "train": "--resume goes on from the last checkpoint",
        "search": "the same command goes on",
    }
    assert f"interrupted; {way_on[command]}" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_wrong_with_the_last_recipe_is_told_before_the_first_is_trained(
    invoke: Invoke, recipe_file: Path
) -> None:
    """It was found once all others had been trained."""
    other = recipe_file.with_name("others.yaml")
    other.write_text(recipe_file.read_text().replace("rows.jsonl", "none.jsonl"))
    done = invoke(str(recipe_file), str(other))
    assert done.exit_code == 2
    assert "none.jsonl: no such file" in done.stderr
    assert not Path("adapters").exists()


def test_the_schema_is_one_of_json(invoke: Invoke) -> None:
    made = json.loads(invoke("schema", command="recipe").stdout)
    assert made["additionalProperties"] is False
    assert {"base", "method", "data", "training"} <= set(made["properties"])


def test_importing_the_commands_is_cheap() -> None:
    heavy = [
        "torch",
        "pydantic",
        "yaml",
        "transformers",
        "trl",
        "peft",
        "datasets",
        "lorry_client.client",
        "grpc",
    ]
    code = f"import sys, lorry_trainer.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["base"], ["new", "--against", "base"]])
def test_an_adapter_called_base_is_not_taken_for_the_bare_base(
    invoke: Invoke, write_rows: Write, letter_rows: list[dict[str, Any]], arguments: list[str]
) -> None:
    """Its answers took the place of the bare base's, in the table and in what was recorded."""
    write_rows(letter_rows)
    done = invoke(*arguments, "--data", "rows.jsonl", command="eval")
    assert done.exit_code == 2
    assert "add --no-base, or name the adapter by a version (base:1)" in " ".join(
        done.stderr.replace("│", " ").split()
    )
