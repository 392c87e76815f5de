"""What taggers and extractors say of every token: a server's answers are PEFT's, on a decoder and on an encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from lorry_bases.load import Head, load_base
from lorry_client import Client, FailedPrecondition, InvalidArgument
from lorry_trainer.examples.objectives import encoder
from lorry_trainer.examples.objectives.generate import rows
from lorry_trainer.objectives.extraction import best_span
from lorry_trainer.recipe_file import parse_recipe
from lorry_trainer.run import run
from tests.e2e.test_main_job import lorry, serving

DATA = {"tokens": rows("slots")[:60], "extraction": rows("passage")[:60]}
WORDS = DATA["tokens"][0]["words"]


def train(objective: str, base: str, folder: Path) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in DATA[objective])
    (folder / f"{objective}.jsonl").write_text(text)
    values = {
        "base": base,
        "objective": objective,
        "data": {"path": f"{objective}.jsonl", "splits": {"validation": 0, "test": 0}},
        "lora": {"rank": 4, "target_modules": "all-linear"},
        "training": {"max_steps": 6, "batch_size": 8, "learning_rate": 0.02, "warmup_ratio": 0},
    }
    out = folder / f"{objective}-{Path(base).name}"
    run(parse_recipe(json.dumps(values)), name="it", folder=folder, output=out)
    return out


@pytest.fixture(scope="module")
def encoder_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "encoder"
    encoder.write(folder)
    return folder


@pytest.fixture(scope="module")
def folders(
    encoder_base: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return {
        "tagger": train("tokens", str(encoder_base), folder),
        "finder": train("extraction", str(encoder_base), folder),
        "decoder": train("tokens", str(base_folder), folder),
    }


@pytest.fixture(scope="module")
def on_encoder(
    encoder_base: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--base", str(encoder_base)) as at:
        with Client(at) as client:
            for name in ("tagger", "finder"):
                client.push(folders[name], name)
        yield at


def peft(base: Path, folder: Path) -> Any:
    """The adapter as PEFT has it, on the base as it is served."""
    if (folder / "labels.json").is_file():
        names = json.loads((folder / "labels.json").read_text())
        head = Head(AutoModelForTokenClassification, tuple(names))
    else:
        head = Head(AutoModelForQuestionAnswering)
    loaded = load_base(str(base), device="cpu", head=head)
    return PeftModel.from_pretrained(loaded.model, folder).eval()


@torch.inference_mode()
def said(model: Any, base: Path, *texts: str) -> tuple[list[list[float]], list[tuple[int, int]]]:
    """[tokens, labels], and where each token stands in its text."""
    read = AutoTokenizer.from_pretrained(base)(
        *texts, return_tensors="pt", return_offsets_mapping=True
    )
    places = read.pop("offset_mapping")[0].tolist()
    out = model(**read)
    if "logits" in out:
        return out.logits[0].tolist(), places
    return torch.stack([out.start_logits[0], out.end_logits[0]], -1).tolist(), places


def check(told: Any, logits: list[list[float]], places: list[tuple[int, int]]) -> None:
    assert [[token.start, token.end] for token in told.tokens] == places
    for token, wanted in zip(told.tokens, logits, strict=True):
        assert list(token.logits) == pytest.approx(wanted, abs=1e-3)
    assert max(abs(value) for row in logits for value in row) > 1e-2


def test_a_taggers_labels_on_an_encoder(
    folders: dict[str, Path], encoder_base: Path, on_encoder: str
) -> None:
    text = " ".join(WORDS)
    with Client(on_encoder) as client:
        told = client.classify_tokens(text, "tagger")
    model = peft(encoder_base, folders["tagger"])
    check(told, *said(model, encoder_base, text))
    assert list(told.labels) == json.loads((folders["tagger"] / "labels.json").read_text())
    shown = lorry("classify", text, "-a", "tagger", "--tokens", at=on_encoder)
    best = {told.labels[token.best] for token in told.tokens if token.start < token.end}
    assert all(label in shown for label in best)
    assert shown.splitlines()[0].split() == ["TOKEN", "LABEL", "LOGIT"]


def test_the_piece_that_answers_a_question(
    folders: dict[str, Path], encoder_base: Path, on_encoder: str
) -> None:
    row = DATA["extraction"][0]
    with Client(on_encoder) as client:
        told = client.classify_tokens(row["question"], "finder", pair=row["context"])
    logits, places = said(
        peft(encoder_base, folders["finder"]), encoder_base, row["question"], row["context"]
    )
    check(told, logits, places)
    inside = [(t.start, t.end) if t.in_pair and t.end > t.start else None for t in told.tokens]
    begin, end = best_span(
        torch.tensor([t.logits[0] for t in told.tokens]),
        torch.tensor([t.logits[1] for t in told.tokens]),
        inside,
    )
    assert row["context"][begin:end]
    assert told.labels == ()


def test_a_taggers_labels_on_a_decoder(
    folders: dict[str, Path], base_folder: Path, tmp_path: Path
) -> None:
    """The second time, the beginning of the prompt is cached."""
    text = " ".join(WORDS * 3)[:110]
    model = peft(base_folder, folders["decoder"])
    with serving(tmp_path, "--base", str(base_folder)) as at, Client(at) as client:
        client.push(folders["decoder"], "tagger")
        for _ in range(2):
            told = client.classify_tokens(text, "tagger")
            check(told, *said(model, base_folder, text))
        two = client.classify_tokens("ab", "tagger", pair="cd")
        assert [(t.in_pair, t.start, t.end) for t in two.tokens[-2:]] == [
            (True, 0, 1),
            (True, 1, 2),
        ]


def test_what_has_no_head_for_tokens_is_refused(on_encoder: str) -> None:
    with Client(on_encoder) as client:
        with pytest.raises(FailedPrecondition, match="name an adapter that has one"):
            client.classify_tokens("red", None)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="prompt is empty"):
            client.classify_tokens("", "tagger")
        for name in ("tagger", "finder"):
            with pytest.raises(FailedPrecondition) as caught:
                client.classify("red", name)
            assert caught.value.reason == "NO_HEAD"
