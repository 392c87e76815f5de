"""Random bases of many architectures, and adapters as PEFT writes them.

Small, but with everything that differs between them: grouped query heads, biases on q/k/v, norms over queries and keys,
windows in all layers or in some, capped scores and logits, attention sinks, fused projections, parallel blocks, scaled
embeddings and residuals, learned positions, transposed weights, mixtures of experts, and an output head of its own or
tied to the embeddings. Sizes are such that bitsandbytes' layout for CPUs takes every layer (outputs in tiles of 32,
inputs in blocks of 64).
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
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCAB_SIZE = 160
CONTEXT_LENGTH = 128
WINDOW = 12  # tokens that a layer with a window looks back; most prompts of the tests are longer

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
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, sliding_window=WINDOW, tie_word_embeddings=False),
    "gpt2": GPT2Config(**_COMMON, n_embd=64, n_layer=2, n_head=4, n_positions=CONTEXT_LENGTH),
    "qwen3": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=True),
    "gemma2": Gemma2Config(
        **SMALL,
        head_dim=32,
        query_pre_attn_scalar=24,
        sliding_window=WINDOW,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=2.0,
        tie_word_embeddings=True,
    ),
    "gemma3": Gemma3TextConfig(
        **SMALL,
        head_dim=32,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,
    ),
    "phi3": Phi3Config(**SMALL, sliding_window=WINDOW, tie_word_embeddings=False),
    "gpt-neox": GPTNeoXConfig(
        **_COMMON,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=False,
    ),
    "granite": GraniteConfig(
        **SMALL,
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.5,
        logits_scaling=2.0,
        tie_word_embeddings=False,
    ),
    "olmo2": Olmo2Config(**SMALL, tie_word_embeddings=False),
    "mixtral": MixtralConfig(
        **SMALL, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False
    ),
    # Its first layer has an MLP as others have, its second one experts.
    "qwen3-moe": Qwen3MoeConfig(
        **SMALL,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        mlp_only_layers=[0],
        tie_word_embeddings=True,
    ),
    "gpt-oss": GptOssConfig(
        **SMALL,
        head_dim=32,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        num_local_experts=4,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    ),
}
EXPERTS = ("mixtral", "qwen3-moe", "gpt-oss")


def other_head(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same, with an output head of its own where the head is tied to the embeddings, and tied where it is not."""
    other = copy.deepcopy(config)
    other.tie_word_embeddings = not config.tie_word_embeddings
    return other


def random_model(config: PreTrainedConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # starts at zero, and would test nothing
            torch.nn.init.normal_(parameter, std=0.1)
        elif "norm" in name:  # starts at one, or at zero where one is added
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        elif name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
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
