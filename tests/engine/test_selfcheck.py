"""A base that cannot be served is refused at start, by name; one that can is let in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    Cohere2Config,
    DeepseekV32Config,
    FalconH1Config,
    GPTJConfig,
    JambaConfig,
    Llama4TextConfig,
    MambaConfig,
    NemotronConfig,
    PreTrainedConfig,
    RecurrentGemmaConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from lorry_bases.shapes import linear_shapes
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.model_runner import ModelRunner

from .bases import CONFIGS, random_model

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GPTJ = GPTJConfig(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=128, rotary_dim=16)
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_chunk_size": 8}
JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 8, "num_experts": 2}

SERVED: dict[str, PreTrainedConfig] = {
    **CONFIGS,
    "cohere2": Cohere2Config(**SMALL, sliding_window=4),
    "smollm3": SmolLM3Config(**SMALL),
    # Hand nothing that a forward pass is given on to their attention.
    "nemotron": NemotronConfig(**SMALL),
    "stablelm": StableLmConfig(**SMALL),
    "starcoder2": Starcoder2Config(**SMALL, sliding_window=4),
}
REFUSED: dict[str, tuple[PreTrainedConfig, str]] = {
    "MambaForCausalLM": (
        MambaConfig(vocab_size=96, hidden_size=64, num_hidden_layers=2),
        "linear_attention",
    ),
    "JambaForCausalLM": (
        JambaConfig(**SMALL, **JAMBA, use_mamba_kernels=False),
        "linear_attention",
    ),
    "RecurrentGemmaForCausalLM": (
        RecurrentGemmaConfig(**{**SMALL, "num_hidden_layers": 3}, lru_width=64),
        "linear_attention",
    ),
    # Attends in every layer, with a state-space part beside it that hardly shows under random weights.
    "FalconH1ForCausalLM": (FalconH1Config(**SMALL, **MAMBA, mamba_d_ssm=128), "hybrid"),
    # Would be served rightly up to 16 tokens.
    "Llama4ForCausalLM": (
        Llama4TextConfig(**SMALL, head_dim=16, num_local_experts=2, attention_chunk_size=16),
        "chunked_attention",
    ),
    # Attend in a way of their own.
    "GPTJForCausalLM": (GPTJ, "2 of its 2 layers"),
    "BloomForCausalLM": (
        BloomConfig(vocab_size=96, hidden_size=64, n_layer=2, n_head=4),
        "2 of its 2 layers",
    ),
    # Needs a mask to choose what it looks at.
    "DeepseekV32ForCausalLM": (
        DeepseekV32Config(
            **{**SMALL, "num_key_value_heads": 4},
            kv_lora_rank=16,
            q_lora_rank=24,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=12,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            n_group=1,
            topk_group=1,
        ),
        "does not run through",
    ),
}


def serve(model: Any, **settings: Any) -> None:
    config = EngineConfig(**{"slots": 2, "max_rank": 8, "kv_memory_bytes": 1 << 22, **settings})
    ModelRunner(model, config, linear_shapes(model), context_length=128)


@pytest.mark.parametrize("name", SERVED)
def test_decoders_that_only_attend_are_served(name: str) -> None:
    serve(random_model(SERVED[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_a_base_that_cannot_be_served_is_refused_by_name(name: str) -> None:
    """Bug: without a layer behind transformers' attention interface the memory for keys and values was divided
    by zero; and a hybrid with small weights passed, for what it kept outside attention was within the
    tolerance."""
    config, why = REFUSED[name]
    with pytest.raises(FailedPrecondition, match=why) as refusal:
        serve(random_model(config))
    assert refusal.value.reason == "BASE_NOT_SERVABLE"
    assert refusal.value.metadata == {"architecture": name}
    assert name in refusal.value.message


class Remembering(nn.Module):
    """An MLP that mixes each token with the one before it in the row, as a short convolution does."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        return self.mlp(x + before)


def test_state_outside_attention_is_seen_in_what_comes_out() -> None:
    """Its configuration says Llama, and every layer attends: only the logits tell."""
    model = random_model(CONFIGS["llama"])
    model.model.layers[0].mlp = Remembering(model.model.layers[0].mlp)
    with pytest.raises(FailedPrecondition, match="what it says is off") as refusal:
        serve(model)
    assert refusal.value.metadata == {"architecture": "LlamaForCausalLM"}


def test_a_window_that_only_the_mask_has_is_refused() -> None:
    """The tokens that are tried are fewer than a usual window: nothing that comes out would tell."""
    model = random_model(CONFIGS["gemma2"])
    model.model.layers[0].self_attn.sliding_window = None
    with pytest.raises(FailedPrecondition, match="layer 0 does not tell attention how far"):
        serve(model)


def test_attention_with_something_of_its_own_is_refused() -> None:
    model = random_model(CONFIGS["llama"])
    model.model.layers[1].self_attn.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, {**kwargs, "position_bias": torch.zeros(1)}),
        with_kwargs=True,
    )
    with pytest.raises(FailedPrecondition, match="layer 1 attends with position_bias"):
        serve(model)


def test_memory_for_no_prompt_at_all_is_a_clear_error() -> None:
    with pytest.raises(InvalidArgument, match="1 blocks of 16 tokens"):
        serve(random_model(CONFIGS["llama"]), kv_blocks=1)
