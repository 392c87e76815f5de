"""The main job through the product's own doors: `lorry train --push`, `serve`, `generate`, `aliases`, `pull`.

Real processes, a real socket, the shipped base in 4 bits; what comes back is held against PEFT.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lorry_bases.load import load_base

LORRY = [sys.executable, "-m", "lorry_client"]
RECIPE = """
base: lorry-tiny
method: qlora
lora: {{rank: {rank}}}
data: {{path: rows.jsonl}}
training: {{max_steps: {steps}, batch_size: 4, learning_rate: 5e-3}}
evaluation: {{max_rows: 4}}
"""


@contextmanager
def serving(home: Path, *options: str) -> Iterator[str]:
    """A server of its own; it must end well when told to."""
    listen = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    command = [*LORRY, "serve", "--home", str(home), *listen, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"listening on (\S+)", line):
                yield found[1]
                break
        else:
            pytest.fail("the server did not start: " + "".join(said))
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(timeout=60) == 0


def lorry(*words: object, at: str) -> str:
    command = [*LORRY, "--server", at, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def generate(at: str, *words: object) -> dict[str, object]:
    answer = lorry("--json", "generate", *words, at=at)
    result: dict[str, object] = json.loads(answer)
    return result


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    rows = [
        {"instruction": f"Say the colour of thing {n}.", "output": ["red", "green", "blue"][n % 3]}
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rank, steps in (("first", 4, 3), ("second", 8, 6)):
        (folder / f"{name}.yaml").write_text(RECIPE.format(rank=rank, steps=steps))
    return folder


def peft_answer(folder: Path, token_ids: list[int], count: int) -> list[int]:
    model = PeftModel.from_pretrained(load_base("lorry-tiny").model, folder)
    prompt = torch.tensor([token_ids])
    with torch.no_grad():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    answer: list[int] = out[0, len(token_ids) :].tolist()
    return answer


def test_train_publish_serve_move_the_alias_and_pull(recipes: Path, tmp_path: Path) -> None:
    token_ids = [5, 6, 7, 300, 42, 17, 8]
    asked = ("--token-ids", " ".join(map(str, token_ids)), "--max-tokens", 12, "--ignore-eos")
    with serving(tmp_path / "home") as at:
        for name in ("first", "second"):
            output = tmp_path / name
            said = lorry(
                "train", recipes / f"{name}.yaml", "--output", output, "--push", "colour", at=at
            )
            assert said.startswith("default/colour@sha256:")
        lorry("aliases", "set", "colour", "production", "colour:1", at=at)
        before = generate(at, "-a", "colour", *asked)
        lorry("aliases", "set", "colour", "production", "colour:2", at=at)
        after = generate(at, "-a", "colour", *asked)
        assert before["token_ids"] == peft_answer(tmp_path / "first", token_ids, 12)
        assert after["token_ids"] == peft_answer(tmp_path / "second", token_ids, 12)
        assert before["adapter"] != after["adapter"]

        shown = json.loads(lorry("--json", "adapters", "show", "colour", at=at))
        newest = max(shown["versions"], key=lambda version: version["number"])
        status = json.loads(lorry("--json", "status", at=at))
        lineage = newest["lineage"]
        assert lineage["base_fingerprint"] == status["base_fingerprint"]
        assert "rank: 8" in lineage["recipe"]
        assert lineage["datasets"]
        assert lineage["metrics"]

        pulled = tmp_path / "pulled"
        lorry("pull", "colour:1", pulled, at=at)
        weights = "adapter_model.safetensors"
        assert (pulled / weights).read_bytes() == (tmp_path / "first" / weights).read_bytes()


def test_what_was_published_is_there_after_a_restart(recipes: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "home") as at:
        output = tmp_path / "first"
        reference = lorry("train", recipes / "first.yaml", "--output", output, "--push", "a", at=at)
        first = generate(at, "-a", "a", "Hello", "--max-tokens", 5)
    with serving(tmp_path / "home", "--slots", "1") as at:
        again = generate(at, "-a", reference, "Hello", "--max-tokens", 5)
        assert (again["text"], again["adapter"]) == (first["text"], first["adapter"])
