"""`lorry train --push` finds out before it trains what `lorry push` would be told after it, from a real server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from lorry_bases import resolve
from lorry_client import Client, FailedPrecondition, InvalidArgument, Unavailable
from lorry_client.cli.exit_codes import exit_code
from lorry_trainer import cli
from lorry_trainer.recipe_file import parse_recipe
from lorry_trainer.run import run
from tests.e2e.test_main_job import serving

Train = Callable[..., Result]
RECIPE = """
base: {base}
method: {method}
lora: {{rank: {rank}}}
data: {{path: rows.csv, splits: {{validation: 0, test: 0.2}}}}
training: {{max_steps: 1, batch_size: 8, learning_rate: 1e-2, warmup_ratio: 0, device: cpu}}
evaluation: {{max_rows: 2, max_new_tokens: 2}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("home"), "--max-rank", "8") as at:
        yield at


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`lorry train` on a recipe for rows in this folder."""
    app = typer.Typer()
    app.callback()(lambda: None)  # as in `lorry`, train is one command among others
    cli.register(app)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lorry_trainer.quiet.quiet_logs", lambda: None)
    lines = [f"colour of thing {n},{['red', 'green', 'blue'][n % 3]}" for n in range(30)]
    (tmp_path / "rows.csv").write_text("question,colour\n" + "\n".join(lines) + "\n")

    def go(*words: str, base: str = "lorry-tiny", method: str = "lora", rank: int = 4) -> Result:
        Path("made.yaml").write_text(RECIPE.format(base=base, method=method, rank=rank))
        return CliRunner().invoke(app, ["train", "made.yaml", *words])

    return go


def numbers(text: str) -> set[str]:
    """What trainer and server must agree on: the cap, the option that raises it, and bases by their digests."""
    return {*re.findall(r"accepts at most \d+|--max-rank \d+|sha256:[0-9a-f]{64}", text)}


def refused(done: Result) -> str:
    assert done.exit_code == 2, (done.stderr, done.exception)
    assert not Path("adapters").exists(), "nothing was trained"
    return done.stderr


def test_a_rank_above_the_cap(server: str, train: Train, tmp_path: Path) -> None:
    for look in ([], ["--check"], ["--dry-run"]):
        said = refused(train("--push", "a", "--server", server, *look, method="pissa", rank=8))
        assert "lora.rank is 8, which pissa publishes as rank 16" in said
        assert "set lora.rank to 4 or less" in said
    recipe = parse_recipe(RECIPE.format(base="lorry-tiny", method="pissa", rank=8))
    folder = run(recipe, name="made", folder=tmp_path, output=tmp_path / "by-hand").folder
    with Client(server) as client, pytest.raises(InvalidArgument) as after:
        client.push(folder, "a")
    assert after.value.reason == "RANK_ABOVE_CAP"
    assert numbers(after.value.message) == numbers(said) == {"accepts at most 8", "--max-rank 16"}


def test_a_recipe_for_another_base(server: str, train: Train, tmp_path: Path) -> None:
    """Its shapes fit: only the weights differ, and the registry would say so after hours."""
    other = tmp_path / "other"
    shutil.copytree(resolve("lorry-tiny"), other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 2e-5}))
    said = refused(train("--push", "a", "--server", server, base=str(other)))
    assert f"base '{other}' (sha256:" in said
    assert "the server there runs lorry-tiny (sha256:" in said
    recipe = parse_recipe(RECIPE.format(base=other, method="lora", rank=4))
    folder = run(recipe, name="made", folder=tmp_path, output=tmp_path / "by-hand").folder
    with Client(server) as client, pytest.raises(FailedPrecondition) as after:
        client.push(folder, "a")
    assert after.value.reason == "BASE_UNKNOWN"
    assert numbers(after.value.message) == numbers(said)
    assert len(numbers(said)) == 2


def test_what_fits_is_trained_and_published(server: str, train: Train) -> None:
    """On a base in 4 bits with quantized scales, which the server has not; and PiSSA at half the cap."""
    done = train("--push", "fits", "--server", server, method="qlora", rank=8)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("default/fits@sha256:")
    done = train("--push", "fits", "--server", server, "--check", method="pissa", rank=4)
    assert done.exit_code == 0, done.stderr


def test_a_server_that_does_not_answer(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before training; without --push there is nobody to ask."""
    monkeypatch.setenv("LORRY_SERVER", "127.0.0.1:1")
    done = train("--push", "a")
    assert isinstance(done.exception, Unavailable)
    assert exit_code(done.exception) == 6
    assert "127.0.0.1:1" in str(done.exception)
    assert not Path("adapters").exists()
    assert train("--check").exit_code == 0


def test_a_name_that_is_none(server: str, train: Train) -> None:
    done = train("--push", "a:3", "--server", server)
    assert isinstance(done.exception, InvalidArgument)
    assert not Path("adapters").exists()
