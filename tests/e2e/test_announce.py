"""An adapter for a base that no server runs: refused with the way out, announced, published, pulled, loaded with PEFT.

A server of another base stands beside the registry all the while, and has nothing to do with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from peft import PeftModel
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
)
from typer.testing import CliRunner, Result

from lorry_client import Client, FailedPrecondition
from lorry_trainer import cli
from lorry_trainer.examples.objectives import encoder
from lorry_trainer.examples.objectives.generate import rows
from lorry_trainer.methods.contract import Peft
from tests.e2e.test_main_job import serving

Lorry = Callable[..., Result]
RECIPE = """
base: {base}
objective: {objective}
method: lora
lora: {{rank: 4, target_modules: {targets}}}
data: {{path: rows.jsonl, splits: {{validation: 0, test: 0.2}}}}
training: {{max_steps: 2, batch_size: 8, learning_rate: 1e-2, device: cpu}}
evaluation: {{max_rows: 4}}
"""
TEXT = "red paint 3"


def colours() -> list[dict[str, Any]]:
    kinds = {"red": "warm", "blue": "cold"}
    return [{"text": f"{k} paint {i}", "label": v} for i in range(30) for k, v in kinds.items()]


TASKS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "classification": (colours(), AutoModelForSequenceClassification),
    "tokens": (rows("slots")[:40], AutoModelForTokenClassification),
    "extraction": (rows("passage")[:40], AutoModelForQuestionAnswering),
}


def distil(folder: Path) -> None:
    """A random DistilBERT with the example encoder's words."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=encoder.CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
    )
    DistilBertForMaskedLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("home"), "--max-rank", "8") as at:
        yield at


@pytest.fixture
def lorry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> Lorry:
    """The trainer's commands, in a folder of their own, against the server."""
    app = typer.Typer()
    app.callback()(lambda: None)
    cli.register(app)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORRY_SERVER", server)
    monkeypatch.setattr("lorry_trainer.quiet.quiet_logs", lambda: None)
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the trained model says of TEXT at the moment that it is written."""
    said: list[torch.Tensor] = []
    save = Peft.save

    def listening(self: Peft, model: Any, folder: Path) -> None:
        said.append(_said(model, Path("base")))
        save(self, model, folder)

    monkeypatch.setattr(Peft, "save", listening)
    return said


def _said(model: Any, base: Path) -> torch.Tensor:
    batch = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt")
    with torch.inference_mode():
        said = model.eval()(**batch)
    return said.start_logits if "start_logits" in said else said.logits


@pytest.mark.parametrize(
    ("objective", "family", "targets"),
    [
        ("classification", "distilbert", "[q_lin, k_lin]"),
        ("classification", "bert", "all-linear"),
        ("tokens", "bert", "[query, key]"),
        ("extraction", "bert", "[query, key]"),
    ],
)
def test_an_encoders_adapter_is_catalogued_where_another_base_is_served(
    objective: str,
    family: str,
    targets: str,
    lorry: Lorry,
    logits: list[torch.Tensor],
    server: str,
    tmp_path: Path,
) -> None:
    """Once it could not be published at all: only a server makes a base known, and none runs an encoder."""
    base, name = tmp_path / "base", f"{family}-{objective}"
    encoder.write(base, seed=len(objective))  # a base of its own in each case
    if family == "distilbert":
        distil(base)
    data, judge = TASKS[objective]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    recipe = RECIPE.format(base="./base", objective=objective, targets=targets)
    (tmp_path / "made.yaml").write_text(recipe)

    done = lorry("train", "made.yaml", "--push", name)
    assert done.exit_code == 2
    assert "`lorry announce ./base`" in " ".join(done.stderr.split())
    assert not logits, "nothing was trained"

    done = lorry("train", "made.yaml", "--output", "by-hand")
    assert done.exit_code == 0, (done.stderr, done.exception)
    with Client() as client:
        with pytest.raises(FailedPrecondition, match="`lorry announce BASE`") as refused:
            client.push(tmp_path / "by-hand", name)
        assert refused.value.reason == "BASE_UNKNOWN"

        for _ in range(2):  # the second time nothing changes
            done = lorry("announce", "./base")
            assert done.exit_code == 0, (done.stderr, done.exception)
            assert "a server of it serves them" in " ".join(done.stderr.split())
        known = client.base(done.stdout.strip())
        assert known.display_name == "base"
        done = lorry("train", "made.yaml", "--push", name, "--check")
        assert done.exit_code == 0, (done.stderr, done.exception)
        assert "keeps adapters for ./base and does not serve them" in " ".join(done.stderr.split())

        version = client.push(tmp_path / "by-hand", name).version
        assert version.lineage.base_name == "base"
        assert version.lineage.base_fingerprint == known.fingerprint
        pulled = Path(client.pull(name, tmp_path / "pulled").folder)
        _assert_not_served(client, name)

    labels = pulled / "labels.json"
    outputs = {"num_labels": len(json.loads(labels.read_text()))} if labels.exists() else {}
    torch.manual_seed(1)  # the head's weights are drawn anew, and the adapter's take their place
    plain = judge.from_pretrained(base, **outputs)
    alone = _said(PeftModel.from_pretrained(plain, pulled), base)
    torch.testing.assert_close(alone, logits[0], rtol=1e-5, atol=1e-5)


def _assert_not_served(client: Client, name: str) -> None:
    for ask in (lambda: client.generate("Hello", name), lambda: client.load(name)):
        with pytest.raises(FailedPrecondition, match="is for the base base ") as refused:
            ask()
        assert refused.value.reason == "ADAPTER_BASE_MISMATCH"
        assert "this server runs lorry-tiny" in refused.value.message
    assert [model.reference for model in client.models()] == [""]
    assert not client.residents()


def test_a_base_that_a_server_runs_may_be_announced_too(lorry: Lorry, tmp_path: Path) -> None:
    """What is said of it without its weights is what its server says, else the registry would refuse it."""
    with Client() as client:
        served = client.status()
        done = lorry("announce", "lorry-tiny")
        assert done.exit_code == 0, (done.stderr, done.exception)
        assert done.stdout.strip() == served.base_fingerprint
        assert client.base(served.base_fingerprint).max_rank == 8  # what its server takes stays
    done = lorry("announce", str(tmp_path / "nothing"))
    assert done.exit_code == 2
    assert "there is none at" in " ".join(done.stderr.split())
