"""An encoder from training to labels: recipes, adapters, and one server whose answers are PEFT's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ModernBertConfig,
    RobertaConfig,
)

from lorry_bases.load import Head, load_base, load_served
from lorry_client import Client, FailedPrecondition, InvalidArgument
from lorry_trainer.announce import announce
from lorry_trainer.bases import Bases
from lorry_trainer.examples import objectives
from lorry_trainer.examples.objectives import encoder
from lorry_trainer.recipe_file import parse_recipe, read_recipe
from lorry_trainer.run import run
from tests.e2e.test_main_job import lorry, serving

FOLDER = Path(objectives.__file__).parent
KINDS = {"red": "warm", "orange": "warm", "blue": "cold", "white": "neither"}
ROWS = {
    "colours": [{"text": f"{k} paint {i}", "label": v} for i in range(10) for k, v in KINDS.items()],
    "pairs": [
        {"text": f"{one} paint", "pair": f"paint {two}", "label": one == two}
        for one in KINDS
        for two in KINDS
        for _ in range(3)
    ],
}  # fmt: skip
METHODS = ("qlora", "lora", "rslora", "dora", "ia3")
TEXTS = ("red paint 3", "blue", "a white stone and an orange one beside it")


def recipe(base: Path, rows: str, method: str) -> Any:
    values: dict[str, Any] = {
        "base": str(base),
        "objective": "classification",
        "method": method,
        "data": {"path": f"{rows}.jsonl", "splits": {"validation": 0, "test": 0}},
        "training": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.02, "warmup_ratio": 0},
    }
    if method != "ia3":
        values["lora"] = {"rank": 4, "target_modules": "all-linear"}
    return parse_recipe(json.dumps(values))  # JSON is YAML


class Trained:
    """A base, and what was trained on it: folders by name."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base = base
        self.folders: dict[str, Path] = {}
        self._folder = folder
        self._bases = Bases()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base)

    def train(self, name: str, wanted: Any) -> None:
        self.folders[name] = self._folder / name
        run(wanted, name=name, folder=self._folder, output=self.folders[name], bases=self._bases)

    def labels(self, name: str) -> list[str]:
        names: list[str] = json.loads((self.folders[name] / "labels.json").read_text())
        return names

    def peft(self, name: str) -> Any:
        head = Head(AutoModelForSequenceClassification, tuple(self.labels(name)))
        base = load_base(str(self.base), device="cpu", head=head).model
        return PeftModel.from_pretrained(base, self.folders[name]).eval()

    @torch.inference_mode()
    def logits(self, model: Any, text: str, pair: str | None = None) -> list[float]:
        said: list[float] = (
            model(**self._tokenizer(text, pair, return_tensors="pt")).logits[0].tolist()
        )
        return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The examples' encoder: every method that puts a head on it, one on pairs, and the recipe that ships."""
    folder = tmp_path_factory.mktemp("trained")
    encoder.write(folder / "encoder")
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = Trained(folder / "encoder", folder)
    for method in METHODS:
        made.train(f"colours-{method}", recipe(made.base, "colours", method))
    made.train("pairs", recipe(made.base, "pairs", "qlora"))
    shipped = read_recipe(FOLDER / "classification-encoder.yaml")
    data = shipped.data.model_copy(update={"path": str(FOLDER.parent / "intent.jsonl")})
    made.train(
        "shipped",
        shipped.model_copy(
            update={
                "base": str(made.base),
                "data": data,
                "training": shipped.training.model_copy(update={"max_steps": 3}),
                "evaluation": shipped.evaluation.model_copy(update={"max_rows": 4}),
            }
        ),
    )
    return made


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of another base takes half of the adapters, after an announcement; that of the encoder has them all."""
    home = tmp_path_factory.mktemp("home")
    names = list(trained.folders)
    with serving(home) as at, Client(at) as client:
        announce(str(trained.base), client)
        for name in names[::2]:
            client.push(trained.folders[name], name)
    with serving(home, "--base", str(trained.base)) as at:
        with Client(at) as client:
            for name in names[1::2]:
                client.push(trained.folders[name], name)
        yield at


@pytest.mark.parametrize("name", [*(f"colours-{method}" for method in METHODS), "shipped"])
def test_labels_are_those_of_peft(name: str, trained: Trained, server: str) -> None:
    model = trained.peft(name)
    with Client(server) as client:
        for text in TEXTS:
            told = client.classify(text, name).labels
            wanted = trained.logits(model, text)
            assert [one.logit for one in told] == pytest.approx(wanted, abs=1e-3)
            assert [one.name for one in told] == trained.labels(name)
    assert max(map(abs, wanted)) > 1e-2


def test_two_texts_are_read_as_in_training(trained: Trained, server: str) -> None:
    model = trained.peft("pairs")
    with Client(server) as client:
        for text, pair in (("red paint", "paint red"), ("red paint", "paint blue")):
            told = client.classify(text, "pairs", pair=pair)
            wanted = trained.logits(model, text, pair)
            assert [one.logit for one in told.labels] == pytest.approx(wanted, abs=1e-3)
        assert wanted != pytest.approx(trained.logits(model, f"{text} {pair}"), abs=1e-3)
        with pytest.raises(InvalidArgument) as refused:
            client.classify([5, 6], "pairs", pair="blue")
        assert refused.value.reason == "PAIR_WITHOUT_TEXT"
    told = json.loads(lorry("--json", "classify", text, "-a", "pairs", "--pair", pair, at=server))
    assert [one["logit"] for one in told["labels"]] == pytest.approx(wanted, abs=1e-3)


@torch.inference_mode()
def test_vectors_are_the_trunks_states(trained: Trained, server: str) -> None:
    model = trained.peft("colours-qlora")
    tokenizer: Any = AutoTokenizer.from_pretrained(trained.base)
    trunk = model.get_base_model().base_model
    states = trunk(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
    with model.disable_adapter():
        bare = trunk(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
    with Client(server) as client:
        for adapter, expected in (("colours-qlora", states), (None, bare)):
            mean = client.embed(TEXTS[0], adapter, pooling="mean").vector
            assert mean == pytest.approx(expected.mean(0).tolist(), abs=1e-3)
            last = client.embed(TEXTS[0], adapter, pooling="last").vector
            assert last == pytest.approx(expected[-1].tolist(), abs=1e-3)


def test_what_needs_a_decoder_is_refused_in_one_sentence(trained: Trained, server: str) -> None:
    with Client(server) as client:
        for method, ask in {
            "Generate": lambda: client.generate("red", "colours-qlora"),
            "Score": lambda: client.score("red", [" paint"]),
        }.items():
            with pytest.raises(
                FailedPrecondition, match=f"is an encoder.*{method} needs a decoder"
            ) as refused:
                ask()
            error = refused.value
            assert error.reason == "BASE_IS_ENCODER"
            assert error.metadata["base"] == str(trained.base)
            assert error.metadata["methods"] == "Classify,ClassifyTokens,Embed"
        with pytest.raises(InvalidArgument) as long:
            client.classify([5] * 65, "colours-qlora")
        assert long.value.reason == "PROMPT_TOO_LONG"
        assert len(client.classify([5] * 64, "colours-qlora").labels) == 3


def test_an_operator_sees_and_merges_as_on_a_decoder(trained: Trained, server: str) -> None:
    with Client(server) as client:
        before = client.classify(TEXTS[0], "colours-lora").labels
        client.merge("colours-lora")
        merged = client.classify(TEXTS[0], "colours-lora").labels
        client.unmerge()
        assert [one.logit for one in merged] == pytest.approx(
            [one.logit for one in before], abs=1e-3
        )
        loaded = client.load("colours-dora", pin=True)
        assert loaded.pinned
        assert loaded.logit_change
        assert client.status().context_length == 64
    assert str(trained.base) in lorry("status", at=server)


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_other_families_serve_what_is_trained_on_them(family: str, tmp_path: Path) -> None:
    encoder.write(tmp_path / "base")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path / "base")
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 66,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.1,
    }
    config = RobertaConfig(**shape) if family == "roberta" else ModernBertConfig(**shape)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "base")
    text = "".join(json.dumps(row) + "\n" for row in ROWS["pairs"])
    (tmp_path / "pairs.jsonl").write_text(text)
    made = Trained(tmp_path / "base", tmp_path)
    made.train("pairs", recipe(made.base, "pairs", "qlora"))
    model = made.peft("pairs")
    assert load_served(str(made.base)).context_length == (65 if family == "roberta" else 66)
    with serving(tmp_path / "home", "--base", str(made.base)) as at, Client(at) as client:
        client.push(made.folders["pairs"], "pairs")
        told = client.classify("red paint", "pairs", pair="paint blue").labels
    wanted = made.logits(model, "red paint", "paint blue")
    assert [one.logit for one in told] == pytest.approx(wanted, abs=1e-3)
    assert [one.name for one in told] == made.labels("pairs")
