"""Two bases have one fingerprint exactly when an adapter for one fits the other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorry_bases import Quantization, fingerprint


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_form(llama_base: Path) -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", fingerprint(llama_base))


def test_same_after_copying_and_moving(llama_base: Path, tmp_path: Path) -> None:
    before = fingerprint(llama_base)
    copied = shutil.copytree(llama_base, tmp_path / "elsewhere" / "copy")
    assert fingerprint(copied) == before
    llama_base.rename(tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == before


def test_notes_about_the_writing_do_not_count(llama_base: Path) -> None:
    """Loading and saving again with another transformers must not orphan every adapter."""
    before = fingerprint(llama_base)
    change_config(
        llama_base,
        lambda c: c.update(_name_or_path="x", transformers_version="9", torch_dtype="float16"),
    )
    change_config(llama_base, lambda c: c.pop("dtype", None))
    (llama_base / "README.md").write_text("A model card.")
    (llama_base / "adapter_model.safetensors").write_bytes(b"not the base")
    assert fingerprint(llama_base) == before


def test_config_counts(llama_base: Path) -> None:
    before = fingerprint(llama_base)
    change_config(llama_base, lambda c: c.update(rms_norm_eps=1e-5))
    assert fingerprint(llama_base) != before


def test_one_weight_byte_counts(llama_base: Path) -> None:
    before = fingerprint(llama_base)
    weights = llama_base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(llama_base) != before


def test_quantization_counts(llama_base: Path) -> None:
    settings = [
        Quantization(),
        Quantization(double=True),
        Quantization(block_size=128),
        Quantization("none"),
    ]
    assert len({fingerprint(llama_base, q) for q in settings}) == len(settings)


def test_settings_without_effect_do_not_count(llama_base: Path) -> None:
    one, other = Quantization("none"), Quantization("none", block_size=128, double=True)
    assert fingerprint(llama_base, one) == fingerprint(llama_base, other)


def test_nf4_is_the_default(llama_base: Path) -> None:
    assert fingerprint(llama_base) == fingerprint(llama_base, Quantization("nf4", 64, False))


@pytest.mark.parametrize("wrong", [{"type": "int8"}, {"block_size": 0}, {"block_size": 96}])
def test_impossible_quantization_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Quantization(**wrong)
