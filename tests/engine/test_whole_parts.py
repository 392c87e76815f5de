"""Whole matrices, norms and heads in the slots: counted, given back, and never another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from lorry_bases.load import load_base

from .bases import save_adapter
from .rig import Rig
from .test_kinds import make_adapter

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

MakeRig = Callable[..., Rig]
PROMPT = [5, 6, 7, 8]
LAYERS: dict[str, Any] = {"r": 4, "target_modules": ["q_proj"]}
HEAD_BYTES = 160 * 64 * 4


def with_tensor(folder: Path, name: str, tensor: torch.Tensor, **config: Any) -> Path:
    """The adapter with one more tensor, or another one of that name."""
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file({**load_file(weights), name: tensor}, weights)
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **config}))
    return folder


@pytest.fixture(scope="module")
def adapters(base_folder: Callable[[str], Path], tmp_path_factory: Any) -> dict[str, Path]:
    base, root = base_folder("llama"), tmp_path_factory.mktemp("parts")
    whole = {
        "head": ["lm_head"],
        "other-head": ["lm_head"],
        "everything": ["lm_head", "norm", "embed_tokens"],
    }
    made = {
        name: make_adapter(base, root / name, LoraConfig(**LAYERS, modules_to_save=modules), seed)
        for seed, (name, modules) in enumerate(whole.items())
    }
    made["plain"] = save_adapter(base, root / "plain", seed=7, **LAYERS)
    made["scores"] = with_tensor(
        save_adapter(base, root / "scores", seed=8, **LAYERS),
        "base_model.model.score.weight",
        torch.randn(3, 64),
        modules_to_save=["score"],
    )
    copied = make_adapter(base, root / "copied", LoraConfig(r=4, target_modules=["lm_head"]), 9)
    name = "base_model.model.lm_head.base_layer.weight"
    own = load_file(copied / "adapter_model.safetensors")[name]
    made["copied"] = with_tensor(copied, name, own.bfloat16().float() + 0.01)
    return made


def test_whole_matrices_are_counted_and_refused_beyond_their_memory(make_rig: MakeRig) -> None:
    with make_rig(dense_memory_bytes=HEAD_BYTES + 100) as rig:
        rig.generate(PROMPT, "head")
        assert rig.engine._runner.slots.dense_bytes == HEAD_BYTES
        rig.submit("second", PROMPT, "other-head")
        rig.submit("plain", PROMPT, "plain")
        rig.wait("second", "plain")
        error: Any = rig.error("second")
        assert error.reason == "DENSE_MEMORY_FULL"
        assert error.metadata["needed_bytes"] == str(HEAD_BYTES)
        assert rig.error("plain") is None
        rig.engine.unload("head").result(timeout=30)
        assert len(rig.generate(PROMPT, "other-head")) == 8
        assert rig.engine._runner.slots.dense_bytes == HEAD_BYTES


def test_a_slot_that_changes_hands_leaves_nothing_of_the_one_before(make_rig: MakeRig) -> None:
    """Norms, embedding and head were all its own; the next one in the slot, and the base, see none of them."""
    with make_rig(slots=1) as rig:
        base, plain = rig.generate(PROMPT), rig.generate(PROMPT, "plain")
        everything = rig.generate(PROMPT, "everything")
        assert everything not in (base, plain)
        assert rig.generate(PROMPT, "plain") == plain
        assert rig.generate(PROMPT) == base
        assert rig.generate(PROMPT, "everything") == everything
        assert rig.idle().evictions == 3


def test_a_head_that_the_base_does_not_have_is_held_with_its_slot(
    make_rig: MakeRig, adapters: dict[str, Path]
) -> None:
    with make_rig(slots=1) as rig:
        rig.generate(PROMPT, "scores")
        (head,) = rig.engine._runner.slots.heads.values()
        saved = load_file(adapters["scores"] / "adapter_model.safetensors")
        assert head.parameters["score.weight"].equal(saved["base_model.model.score.weight"])
        rig.generate(PROMPT, "plain")
        assert not rig.engine._runner.slots.heads


def test_a_copy_of_the_base_that_is_another_bases_is_refused(make_rig: MakeRig) -> None:
    """PEFT would put it in the place of the base's own, for everybody."""
    with make_rig() as rig:
        rig.submit("copied", PROMPT, "copied")
        rig.wait("copied")
        error: Any = rig.error("copied")
        assert error.reason == "BASE_WEIGHT_DIFFERS"
        assert "save_embedding_layers=False" in error.message


def test_a_copy_that_was_rounded_to_the_type_of_the_file_is_the_bases_own(
    base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = base_folder("llama")
    folder = make_adapter(base, tmp_path, LoraConfig(r=4, target_modules=["lm_head"]), 9)
    name = "base_model.model.lm_head.base_layer.weight"
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, name: tensors[name].bfloat16()}, weights)
    with Rig(load_base(str(base), device="cpu"), {"rounded": folder}) as rig:
        assert len(rig.generate(PROMPT, "rounded")) == 8
