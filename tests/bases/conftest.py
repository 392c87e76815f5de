"""Bases to test with: the one that ships, and random ones of four architectures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

REPOSITORY = Path(__file__).parents[2]

_SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
    "pad_token_id": 0,
}

ARCHITECTURES: dict[str, PreTrainedConfig] = {
    "LlamaForCausalLM": LlamaConfig(**_SMALL),
    "MistralForCausalLM": MistralConfig(**_SMALL, sliding_window=None),
    "Qwen2ForCausalLM": Qwen2Config(**_SMALL),
    "GPT2LMHeadModel": GPT2Config(
        vocab_size=96,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    ),
}


def save_random_base(config: PreTrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def random_base(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random base of `architecture`, without a tokenizer."""
    return save_random_base(ARCHITECTURES[architecture], tmp_path_factory.mktemp(architecture))


@pytest.fixture
def llama_base(tmp_path: Path) -> Path:
    """A folder of one's own, to be broken."""
    return save_random_base(ARCHITECTURES["LlamaForCausalLM"], tmp_path / "base")


@pytest.fixture(scope="session")
def training_text() -> Path:
    """The folder that lorry-tiny was trained from. It is not part of the repository."""
    folder = Path(os.environ.get("LORRY_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "banking77" / "train.csv").is_file():
        pytest.skip(f"no training text in {folder}; LORRY_DATA names another folder")
    return folder
