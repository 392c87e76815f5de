"""`lorry push` of a kind that is served only as something else: a converter that is installed goes first."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONVERTER = """
import json
from pathlib import Path

KINDS = {"OWN"}


class NotConvertible(Exception):
    code, reason, message = "INVALID_ARGUMENT", "NOT_CONVERTIBLE", "it cannot be converted"


def convert(folder, out):
    if (folder / "hopeless.txt").exists():
        raise NotConvertible()
    out.mkdir()
    (out / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (out / "adapter_model.safetensors").write_bytes(b"factors of " + folder.name.encode())
    return "converted OWN to LoRA"
"""


@pytest.fixture
def lorry(tmp_path: Path, lorry: Callable[..., Any]) -> Callable[..., Any]:
    """Runs `lorry` where the converter, and one that cannot be loaded, are installed."""
    site = tmp_path / "site"
    metadata = site / "converters-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "own_converter.py").write_text(CONVERTER)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: converters\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[lorry.converters]\naway = no_such_module\nown = own_converter\n"
    )
    path = os.pathsep.join([str(site), *sys.path])
    return lambda *arguments: lorry(*arguments, PYTHONPATH=path)


@pytest.fixture
def loha(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text('{"peft_type": "OWN"}')
    return folder


def test_what_is_published_is_what_the_converter_made(
    server: Any, lorry: Callable[..., Any], loha: Path
) -> None:
    done = lorry("push", str(loha), "intent", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("converted OWN to LoRA\n")
    files = {file["path"]: file["digest"] for file in json.loads(done.stdout)["files"]}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert server.blobs.complete[files["adapter_model.safetensors"]] == b"factors of adapter"


def test_where_it_cannot_be_converted_nothing_is_published(
    server: Any, lorry: Callable[..., Any], loha: Path
) -> None:
    (loha / "hopeless.txt").touch()
    done = lorry("push", str(loha), "intent")
    assert (done.returncode, done.stderr) == (
        4,
        "error: it cannot be converted [NOT_CONVERTIBLE]\n",
    )
    assert not server.blobs.complete


def test_other_kinds_are_published_as_they_are(
    server: Any, lorry: Callable[..., Any], folder: Path
) -> None:
    for number, config in enumerate(('{"peft_type": "LORA"}', '{"peft_type": "NEW"}', "no JSON")):
        own = folder.parent / f"adapter-{number}"
        shutil.copytree(folder, own)
        (own / "adapter_config.json").write_text(config)
        done = lorry("push", str(own), f"adapter-{number}", "--json")
        assert done.returncode == 0, done.stderr
        assert "converted" not in done.stderr
