"""What architectures call their parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """A base as its adapters name it."""

    attention: list[str]
    mlp: list[str]
    down: str  # the linear layer of the MLP that feeds back into the stream
    norm: str
    embedding: str
    tied: bool
    biased: list[str]  # linear layers with a bias


_LLAMA = Names(
    attention=["q_proj", "v_proj"],
    mlp=["gate_proj", "up_proj", "down_proj"],
    down="down_proj",
    norm="input_layernorm",
    embedding="embed_tokens",
    tied=False,
    biased=[],
)
_QWEN = Names(
    **{**vars(_LLAMA), "tied": True, "biased": ["q_proj", "v_proj"]},
)
NAMES: Mapping[str, Names] = {
    "llama": _LLAMA,
    "llama-tied": Names(**{**vars(_LLAMA), "tied": True}),
    "qwen2": _QWEN,
    "gemma3": _LLAMA,  # scales in its embedding, and normalises queries and keys head by head
    "gpt2": Names(
        attention=["attn.c_attn"],
        mlp=["mlp.c_fc", "mlp.c_proj"],
        down="mlp.c_proj",
        norm="ln_1",
        embedding="wte",
        tied=True,
        biased=["attn.c_attn", "mlp.c_proj"],
    ),
}
