"""What a recipe writes loads in PEFT alone, and a server answers with it as PEFT does: every method, every objective.

On a random base, held as it is served; one server has them all. Encoders: `test_encoder_serves.py` and
`test_tokens_serve.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from lorry_bases.load import Head, load_base
from lorry_client import Client
from lorry_trainer import examples
from lorry_trainer.bases import Bases
from lorry_trainer.examples.objectives.generate import rows
from lorry_trainer.methods import METHODS
from lorry_trainer.methods.bottleneck import load_bottleneck
from lorry_trainer.recipe import FACTORS
from lorry_trainer.recipe_file import parse_recipe
from lorry_trainer.run import run
from tests.e2e.test_main_job import serving

PROMPT = list(range(20, 60))
CONTINUATION = [70, 90, 80]
DATA = {
    "sft": [{"instruction": f"thing {n}", "output": "abc"[n % 3]} for n in range(40)],
    "dpo": rows("polite"),
    "orpo": rows("polite"),
    "kto": rows("judged"),
    "grpo": rows("brief"),
    "rloo": rows("brief"),
    "classification": [{"text": f"{['red', 'blue'][n % 2]} {n}", "label": n % 2} for n in range(40)],
    "tokens": rows("slots"),
    "reward": rows("polite"),
}  # fmt: skip
WRITES = [("sft", method) for method in METHODS]
WRITES += [(objective, "qlora") for objective in ("dpo", "orpo", "kto", "grpo", "rloo")]
JUDGES = [(o, "qlora") for o in ("classification", "tokens", "reward")]
JUDGES += [("classification", method) for method in ("rslora", "dora", "loftq", "ia3")]
CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "reward": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
}


def recipe(objective: str, method: str, base: Path) -> Any:
    values: dict[str, Any] = {
        "base": str(base),
        "objective": objective,
        "method": method,
        "data": {"path": f"{objective}.jsonl", "splits": {"validation": 0, "test": 0}},
        "training": {"max_steps": 3, "batch_size": 4, "learning_rate": 0.02, "warmup_ratio": 0},
    }
    if method in FACTORS:
        values["lora"] = {"rank": 4}
    if method.endswith("_tuning"):
        values["virtual"] = {"tokens": 4}
    if objective in ("grpo", "rloo"):
        brief = Path(examples.__file__).parent / "objectives" / "brief_reward.py"
        values["reinforcement"] = {"reward": f"{brief}:brief", "max_new_tokens": 6}
    return parse_recipe(json.dumps(values))  # JSON is YAML


@pytest.fixture(scope="module")
def folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter in a folder of its own for each objective and method."""
    folder = tmp_path_factory.mktemp("trained")
    for objective, made in DATA.items():
        text = "".join(json.dumps(row) + "\n" for row in made[:40])
        (folder / f"{objective}.jsonl").write_text(text)
    bases = Bases()
    for objective, method in [*WRITES, *JUDGES]:
        name = f"{objective}-{method}"
        wanted = recipe(objective, method, base_folder)
        run(wanted, name=name, folder=folder, output=folder / name, bases=bases)
    return folder


@pytest.fixture(scope="module")
def server(
    folder: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--base", str(base_folder)) as at:
        with Client(at) as client:
            for objective, method in [*WRITES, *JUDGES]:
                name = f"{objective}-{method}"
                client.push(folder / name, name)
        yield at


@torch.inference_mode()
def last_logits(model: Any, ids: list[int], count: int = 1) -> torch.Tensor:
    """[count, outputs] of the last positions: virtual tokens stand before them."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -count:]
    return logits


def greedy(model: Any, count: int) -> list[int]:
    ids = list(PROMPT)
    for _ in range(count):
        ids.append(int(last_logits(model, ids)[-1].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize(("objective", "method"), WRITES)
def test_what_writes_answers_as_in_peft(
    objective: str, method: str, folder: Path, server: str, base_folder: Path
) -> None:
    """Token by token, and by the likelihood of a given answer. PEFT has no bottlenecks: the format's own loader."""
    name = f"{objective}-{method}"
    assert not [path for path in (folder / name).iterdir() if path.is_dir()]
    base = load_base(str(base_folder), device="cpu").model
    bare = last_logits(base, PROMPT)
    loads = load_bottleneck if method == "bottleneck" else PeftModel.from_pretrained
    model = loads(base, folder / name).eval()
    assert (last_logits(model, PROMPT) - bare).abs().max() > 1e-3  # else it would show nothing
    following = last_logits(model, PROMPT + CONTINUATION, 4)[:-1].log_softmax(-1)
    likely = float(following[range(3), CONTINUATION].sum())
    with Client(server) as client:
        said = client.generate(PROMPT, name, max_tokens=6, ignore_eos=True)
        scored = client.score(PROMPT, [CONTINUATION], name)
    assert list(said.token_ids) == greedy(model, 6)
    assert scored.scores[0].logprob == pytest.approx(likely, abs=1e-3)


@pytest.mark.parametrize(("objective", "method"), JUDGES)
def test_what_judges_says_what_it_says_in_peft(
    objective: str, method: str, folder: Path, server: str, base_folder: Path
) -> None:
    """Labels, rewards, and tags: a decoder's tag of a token is what its head says of the text up to there."""
    name = f"{objective}-{method}"
    labels = folder / name / "labels.json"
    names = json.loads(labels.read_text()) if labels.is_file() else ["reward"]
    head = Head(CLASSES[objective], tuple(names))
    model = PeftModel.from_pretrained(
        load_base(str(base_folder), device="cpu", head=head).model, folder / name
    ).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([PROMPT])).logits[0]
    with Client(server) as client:
        for length in (5, 17, len(PROMPT)) if objective == "tokens" else (len(PROMPT),):
            told = client.classify(PROMPT[:length], name).labels
            wanted = logits[length - 1] if objective == "tokens" else logits
            assert [one.logit for one in told] == pytest.approx(wanted.tolist(), abs=1e-3)
    assert logits.abs().max() > 1e-2
