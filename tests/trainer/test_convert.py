"""Adapters that are not served, converted: the LoRA says what the adapter says, or the loss is told."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorry_bases.load import load_base
from lorry_trainer.convert.convert import convert
from lorry_trainer.convert.factors import factorize
from lorry_trainer.convert.float_base import unpack
from lorry_trainer.convert.kinds import KINDS
from lorry_trainer.errors import ConversionError

pytestmark = pytest.mark.filterwarnings("ignore")

TARGETS = ["q_proj", "down_proj"]
SPECIAL: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 4, "target_r": 4, "total_step": 10},
    "ADAMSS": {"r": 8, "num_subspaces": 2},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 50},
    "GRALORA": {"r": 8, "gralora_k": 2},
    "OFT": {"oft_block_size": 16},
    "PVERA": {"r": 4},
    "RANDLORA": {"r": 4},
    "SHIRA": {"r": 4},
    "VBLORA": {"r": 2, "num_vectors": 16, "vector_length": 16, "topk": 2},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 50},
}
LOW_RANK = {"VERA": 4, "HRA": 8, "VBLORA": 2, "TINYLORA": 2, "UNILORA": 4, "DEFT": 8}


def make(base: Path, folder: Path, kind: str, **options: Any) -> Path:
    """Saves a random adapter that acts, as PEFT does."""
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    settings = {"target_modules": TARGETS, **SPECIAL.get(kind, {}), **options}
    torch.manual_seed(1)
    base_model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(base_model, config_class(task_type="CAUSAL_LM", **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@torch.inference_mode()
def logits(base: Path, adapter: Path | None) -> torch.Tensor:
    """On the base as it is served, its 4-bit weights as plain numbers."""
    loaded = load_base(str(base), device="cpu")
    unpack(loaded)
    model: Any = loaded.model
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    return model(input_ids=torch.arange(5, 60)[None]).logits[0]


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_lora_says_what_the_adapter_says(base_folder: Path, tmp_path: Path, kind: str) -> None:
    adapter = make(base_folder, tmp_path / "adapter", kind)
    done = convert(adapter, tmp_path / "lora", max_rank=64)
    assert done.error < 1e-5
    expected = logits(base_folder, adapter)
    assert distance(logits(base_folder, None), expected) > 1e-3, "it would show nothing"
    assert distance(logits(base_folder, tmp_path / "lora"), expected) < 1e-4
    if kind in LOW_RANK:
        assert done.rank == LOW_RANK[kind]
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


def test_factors_that_are_one_matrix_come_out_exact(base_folder: Path, tmp_path: Path) -> None:
    """LoKr with low-rank factors is a Kronecker product: its rank is the product of theirs."""
    adapter = make(base_folder, tmp_path / "adapter", "LOKR", r=2, decompose_both=True)
    done = convert(adapter, tmp_path / "lora")
    assert done.error < 1e-6
    assert done.rank <= 4


def test_a_loss_is_told_wherever_somebody_may_look(base_folder: Path, tmp_path: Path) -> None:
    adapter = make(base_folder, tmp_path / "adapter", "LOHA")
    (adapter / "lineage.json").write_text('{"metrics": {"test_exact_match": 0.5}}')
    done = convert(adapter, tmp_path / "lora", max_rank=4)
    assert done.rank == 4
    assert 0.1 < done.error < 1.0
    assert "much of the change is lost" in str(done)
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert max(len(t) for name, t in tensors.items() if "lora_A" in name) == 4
    lineage = json.loads((tmp_path / "lora" / "lineage.json").read_text())
    metrics = lineage["metrics"]
    assert metrics["test_exact_match"] == 0.5
    assert metrics["conversion_error"] == done.error
    assert metrics["conversion_rank"] == 4
    assert {
        f"conversion_error/{path}": each.error for path, each in done.layers.items()
    }.items() <= metrics.items()
    assert lineage["baseFingerprint"] == load_base(str(base_folder), device="cpu").fingerprint
    assert f"at most {done.error:.2g}" in (tmp_path / "lora" / "README.md").read_text()


def test_a_share_of_the_energy_takes_a_smaller_rank(base_folder: Path, tmp_path: Path) -> None:
    adapter = make(base_folder, tmp_path / "adapter", "LOHA")
    done = convert(adapter, tmp_path / "lora", energy=0.9)
    assert 1 <= done.rank < 64
    assert done.error <= 0.1**0.5 + 1e-6


def test_the_same_adapter_gives_the_same_bytes(base_folder: Path, tmp_path: Path) -> None:
    adapter = make(base_folder, tmp_path / "adapter", "LOHA")
    for name in ("one", "two"):
        convert(adapter, tmp_path / name, max_rank=8)
    for file in ("adapter_model.safetensors", "adapter_config.json", "lineage.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_large_change_of_low_rank_is_found_without_all_of_its_singular_values() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, 9, generator=generator).double() for n in (1500, 1200))
    found = factorize(left @ right.T, max_rank=32)
    assert found.rank == 9
    assert found.error < 1e-6


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "embeddings": ("LOHA", {"modules_to_save": ["lm_head"]}, "lm_head whole"),
    "other kinds": ("IA3", {"feedforward_modules": []}, "'IA3' cannot be converted"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_converted_is_refused_and_nothing_written(
    base_folder: Path, tmp_path: Path, name: str
) -> None:
    kind, options, why = BAD[name]
    adapter = make(base_folder, tmp_path / "adapter", kind, **options)
    with pytest.raises(ConversionError, match=why):
        convert(adapter, tmp_path / "lora")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_base_that_is_not_here_can_be_named(base_folder: Path, tmp_path: Path) -> None:
    adapter = make(base_folder, tmp_path / "adapter", "VERA", r=2)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="--base BASE"):
        convert(adapter, tmp_path / "lora")
    convert(adapter, tmp_path / "lora", base=str(base_folder))


def test_an_adapter_that_changes_nothing_is_refused(base_folder: Path, tmp_path: Path) -> None:
    base_model = AutoModelForCausalLM.from_pretrained(base_folder)
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.VERA]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(base_model, config_class(target_modules=TARGETS, r=2)).save_pretrained(
            tmp_path / "adapter"
        )
    with pytest.raises(ConversionError, match="changes nothing"):
        convert(tmp_path / "adapter", tmp_path / "lora")


def test_folders_that_are_no_adapters(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="no adapter folder"):
        convert(tmp_path / "empty", tmp_path / "lora")
