"""`lorry eval` scores what the trainer wrote through a running server, and `lorry classify` tells labels by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lorry_bases.load import Head, load_base
from lorry_client import Client
from lorry_trainer.bases import Bases
from lorry_trainer.recipe_file import parse_recipe
from lorry_trainer.run import run
from tests.e2e.test_main_job import lorry, serving

SERVED = {"pissa": "lora: {rank: 4}", "ia3": "{}"}
RECIPE = """
method: {method}
data: {{path: rows.csv, splits: {{validation: 0, test: 0.2}}}}
training: {{max_steps: 2, batch_size: 8, learning_rate: 1e-2, warmup_ratio: 0}}
evaluation: {{max_rows: 8, max_new_tokens: 6}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    lines = [f"colour of thing {n},{['red', 'green', 'blue'][n % 3]}" for n in range(40)]
    (folder / "rows.csv").write_text("question,colour\n" + "\n".join(lines) + "\n")
    bases = Bases()
    columns = "columns: {text: question, label: colour}, splits"
    topic = RECIPE.format(method="qlora").replace("splits", columns)
    topic = topic.replace(", max_new_tokens: 6", "") + "objective: classification"
    run(parse_recipe(topic), name="topic", folder=folder, output=folder / "topic")
    for method, section in SERVED.items():
        text = RECIPE.format(method=method) + ("" if section == "{}" else section)
        recipe = parse_recipe(text)
        run(recipe, name=method, folder=folder, output=folder / method, bases=bases)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("home")) as at:
        with Client(at) as client:
            for method in (*SERVED, "topic"):
                client.push(folder / method, method)
        yield at


def test_a_classifier_tells_the_names_of_its_labels(
    folder: Path, server: str, tmp_path: Path
) -> None:
    """From the recipe's rows to the command line; what it says of them is what PEFT says."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    names = json.loads((folder / "topic" / "labels.json").read_text())
    assert sorted(names) == ["blue", "green", "red"]
    head = Head(AutoModelForSequenceClassification, tuple(names))
    bare = load_base("lorry-tiny", device="cpu", head=head)
    model = PeftModel.from_pretrained(bare.model, folder / "topic")
    asked = [f"colour of thing {number}" for number in (3, 4, 5)]
    with Client(server) as client, torch.inference_mode():
        client.pull("topic", tmp_path / "pulled")
        for text in asked:
            ids = torch.tensor([bare.tokenizer(text)["input_ids"]])  # type: ignore[misc]
            wanted = model(ids).logits[0].tolist()
            told = client.classify(text, "topic")
            assert [label.name for label in told.labels] == names
            assert [label.logit for label in told.labels] == pytest.approx(wanted, abs=1e-3)
    assert json.loads((tmp_path / "pulled" / "labels.json").read_text()) == names
    printed = lorry("classify", asked[0], "-a", "topic", at=server).splitlines()
    assert {line.split()[0] for line in printed[1:]} == {*names}


def test_eval_through_a_server(folder: Path, server: str) -> None:
    data = folder / "rows.csv"
    page = folder / "page.html"
    words = [
        "eval",
        "pissa",
        "--data",
        data,
        "--max-tokens",
        6,
        "--max-rows",
        12,
        "--report",
        page,
        "--record",
    ]
    told = json.loads(lorry("--json", *words, at=server))
    assert told["rows"] == 12
    assert told["acted"]["pissa"].startswith("default/pissa@sha256:")
    assert told["acted"]["base"] is None
    for who in ("base", "pissa"):
        metrics = told["metrics"][who]
        assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    text = page.read_text(encoding="utf-8")
    assert "pissa on rows.csv" in text
    assert "<img" in text
    with Client(server) as client:
        (kept,) = client.evaluations("pissa")
    assert kept.metrics["accuracy"] == told["metrics"]["pissa"]["accuracy"]
    assert kept.metrics["base_accuracy"] == told["metrics"]["base"]["accuracy"]
    alone = lorry(*words, "--no-base", at=server)
    assert all(line.startswith("pissa  ") for line in alone.splitlines())
    assert f"pissa  accuracy  {told['metrics']['pissa']['accuracy']:.4f}" in alone


def test_a_version_with_a_head_is_asked_for_labels(folder: Path, server: str) -> None:
    """It was made to write text, of which none was a label: every figure was 0."""
    told = json.loads(lorry("--json", "eval", "topic", "--data", folder / "rows.csv", at=server))
    assert list(told["metrics"]) == ["topic"]  # the bare base has no head
    rows = [line.split(",") for line in (folder / "rows.csv").read_text().splitlines()[1:]]
    with Client(server) as client:
        best = []
        for question, _ in rows:
            found = client.classify(question, "topic")
            best.append(found.labels[found.best].name)
    hits = sum(name == colour for name, (_, colour) in zip(best, rows, strict=True))
    assert hits
    assert told["metrics"]["topic"]["accuracy"] == pytest.approx(hits / len(rows))


def test_one_published_version_against_another(folder: Path, server: str, tmp_path: Path) -> None:
    """By the expected answers, and by a function: its figures are those of the answers that were given."""
    (tmp_path / "judge.py").write_text("def judge(prompt, said, answer): return len(said)")
    words = ["eval", "pissa", "--against", "ia3", "--data", folder / "rows.csv", "--max-tokens", 6]
    told = json.loads(lorry("--json", *words, "--max-rows", 12, "--record", at=server))
    assert told["rival"] == "ia3"
    metrics = told["metrics"]["pissa"]
    assert metrics["win_rate_low"] <= metrics["win_rate"] <= metrics["win_rate_high"]
    with Client(server) as client:
        kept = [e for e in client.evaluations("pissa") if "against" in e.title]
    assert [e.metrics["win_rate"] for e in kept] == [metrics["win_rate"]]
    assert told["acted"]["ia3"] in kept[0].description
    reward = f"{tmp_path / 'judge.py'}:judge"
    judged = lorry(*words, "--no-base", "--max-rows", 4, "--reward", reward, at=server)
    assert {line.split()[0] for line in judged.splitlines()} == {"ia3", "pissa"}
    assert "pissa  reward  " in judged
    assert "pissa  win_rate  " in judged
