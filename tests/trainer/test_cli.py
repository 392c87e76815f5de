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

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(app, ["train", *arguments], **options)

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
    """Stands in for lorry_client.Client and remembers what it was asked to push."""
    import lorry_client

    calls: list[dict[str, Any]] = []

    class Client:
        def __init__(self, server: str | None = None) -> None:
            self.server = server

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

        def push(self, folder: Path, name: str, **options: Any) -> SimpleNamespace:
            calls.append({"folder": folder, "name": name, "server": self.server} | options)
            return SimpleNamespace(reference=f"default/{name}@sha256:00")

    monkeypatch.setattr(lorry_client, "Client", Client, raising=False)
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
    done = invoke(
        str(recipe_file), "--push", "letters", "--alias", "production",
        "--server", "example:7070",
    )  # fmt: skip
    assert done.stdout == "default/letters@sha256:00\n"
    assert pushed == [
        {
            "folder": Path("adapters/letters"),
            "name": "letters",
            "server": "example:7070",
            "alias": "production",
            "description": "Letters.",
        }
    ]


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
