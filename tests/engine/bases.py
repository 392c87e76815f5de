"""Random bases of four architectures, and adapters as PEFT writes them.

Small, but with everything that differs between the four: grouped query heads, biases on q/k/v, a sliding
window, learned positions, transposed weights, and an output head of its own or tied to the embeddings. Sizes
are such that bitsandbytes' layout for CPUs takes every layer (outputs in tiles of 32, inputs in blocks of 64).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

VOCAB_SIZE = 160
CONTEXT_LENGTH = 128
WINDOW = 12  # tokens that Mistral looks back; most prompts of the tests are longer

# Wider than the usual 0.02, so that the likeliest token of a random base stands out from the next.
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SMALL: dict[str, Any] = {
    **_COMMON,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
}

CONFIGS: Mapping[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "llama-tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, sliding_window=WINDOW, tie_word_embeddings=False),
    "gpt2": GPT2Config(**_COMMON, n_embd=64, n_layer=2, n_head=4, n_positions=CONTEXT_LENGTH),
}


def random_model(config: PreTrainedConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # biases start at zero, and would test nothing
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_adapter(
    base: Path,
    folder: Path,
    *,
    seed: int,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Path:
    """Saves a random adapter that acts: neither factor is zero. `options` are those of `LoraConfig`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(init_lora_weights=False, lora_dropout=0.0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # PEFT's about GPT-2's transposed layers: it does the right thing
        get_peft_model(model, config).save_pretrained(folder, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(
        {
            name: (tensor * strength if ".lora_B." in name else tensor).to(dtype).contiguous()
            for name, tensor in tensors.items()
        },
        weights,
        metadata={"format": "pt"},
    )
    return folder
