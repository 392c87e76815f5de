"""Kinds that act beside modules or replace them, at publish; and each kind of PEFT is served, converted or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorry_registry.checks import CONFIG_FILE, WEIGHTS_FILE, read_adapter
from lorry_registry.checks.kinds import CONVERTED, KINDS, find_kind
from lorry_registry.checks.kinds.virtual import key_widths
from lorry_registry.entities import Base, LinearModule, Parameter
from lorry_registry.errors import InvalidArgument

from .helpers import safetensors_bytes

HIDDEN, KEYS, LAYERS, TOKENS = 16, 8, 2, 5
BASE = Base(
    fingerprint="sha256:" + "a" * 64,
    display_name="tiny",
    architecture="LlamaForCausalLM",
    quantization="nf4",
    modules=tuple(
        LinearModule(f"model.layers.{layer}.self_attn.{name}_proj", HIDDEN, width)
        for layer in range(LAYERS)
        for name, width in (("q", HIDDEN), ("k", KEYS), ("v", KEYS), ("o", HIDDEN))
    ),
    max_rank=8,
    context_length=64,
    parameters=(
        Parameter("model.embed_tokens.weight", (32, HIDDEN)),
        Parameter("model.norm.weight", (HIDDEN,)),
        Parameter("lm_head.weight", (32, HIDDEN)),
    ),
)
PROMPT: dict[str, Any] = {
    "peft_type": "PROMPT_TUNING",
    "num_virtual_tokens": TOKENS,
    "num_transformer_submodules": 1,
    "num_attention_heads": 4,
    "num_layers": LAYERS,
    "token_dim": HIDDEN,
}
PREFIX = {**PROMPT, "peft_type": "PREFIX_TUNING", "num_attention_heads": 2, "token_dim": KEYS}
O_PROJ = "base_model.model.model.layers.0.self_attn.o_proj"
BOTTLENECK: dict[str, Any] = {
    "peft_type": "BOTTLENECK",
    "placement": "houlsby",
    "bottleneck_size": 3,
    "activation": "relu",
    "scaling": 1.0,
    "target_modules": ["o_proj"],
}


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype=np.float32)


def bottleneck_tensors(features: int = HIDDEN, size: int = 3) -> dict[str, Any]:
    return {
        f"{O_PROJ}.bottleneck_down.weight": ones(size, features),
        f"{O_PROJ}.bottleneck_down.bias": ones(size),
        f"{O_PROJ}.bottleneck_up.weight": ones(features, size),
        f"{O_PROJ}.bottleneck_up.bias": ones(features),
    }


def save(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> Path:
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    (folder / WEIGHTS_FILE).write_bytes(safetensors_bytes(tensors))
    return folder


def check(folder: Path, base: Base = BASE) -> Any:
    """All that the registry asks when a version is published."""
    files = read_adapter(folder)
    files.check_fit(base)
    files.check_finite()
    return files


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "CPT"])
def test_embeddings_of_virtual_tokens(tmp_path: Path, kind: str) -> None:
    config = {**PROMPT, "peft_type": kind}
    files = check(save(tmp_path, config, {"prompt_embeddings": ones(TOKENS, HIDDEN)}))
    assert files.parts.virtual is not None
    assert not files.parts.virtual.injected
    assert (files.spec.peft_type, files.spec.max_rank) == (kind, 0)
    assert files.spec.parameter_count == TOKENS * HIDDEN


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "CARTRIDGE"])
def test_keys_and_values_of_virtual_tokens(tmp_path: Path, kind: str) -> None:
    config = {**PREFIX, "peft_type": kind}
    tensors = {"prompt_embeddings": ones(TOKENS, 2 * LAYERS * KEYS)}
    files = check(save(tmp_path, config, tensors))
    assert files.parts.virtual is not None
    assert files.parts.virtual.injected


def test_a_bottleneck_adapter(tmp_path: Path) -> None:
    files = check(save(tmp_path, BOTTLENECK, bottleneck_tensors()))
    assert files.spec.module_count == 1
    assert list(files.parts.tensors()) == list(bottleneck_tensors())


NORM = "base_model.model.model.norm.ln_tuning_layers.weight"
ROWS = "base_model.model.model.embed_tokens.trainable_tokens_delta"
LN_TUNING: dict[str, Any] = {"peft_type": "LN_TUNING", "target_modules": ["norm"]}
TRAINABLE_TOKENS: dict[str, Any] = {
    "peft_type": "TRAINABLE_TOKENS",
    "target_modules": ["embed_tokens"],
    "token_indices": [3, 5],
    "init_weights": True,
}


@pytest.mark.parametrize("name", [NORM, NORM.replace(".weight", ".default.weight")])
def test_norms_trained_alone(tmp_path: Path, name: str) -> None:
    files = check(save(tmp_path, LN_TUNING, {name: ones(HIDDEN)}))
    assert files.parts.replaced == {"model.norm.weight": name}


def test_tokens_trained_alone(tmp_path: Path) -> None:
    files = check(save(tmp_path, TRAINABLE_TOKENS, {ROWS: ones(2, HIDDEN)}))
    assert files.parts.tokens["model.embed_tokens"].indices == (3, 5)


WIDE = ones(TOKENS, HIDDEN)
NAN = ones(TOKENS, HIDDEN)
NAN[2, 3] = np.nan
BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no tensor": (PROMPT, {}, "ADAPTER_EMPTY"),
    "an encoder's tensors": (
        PROMPT,
        {"prompt_embeddings": WIDE, "prompt_encoder.embedding.weight": WIDE},
        "TENSOR_UNKNOWN",
    ),
    "another number of tokens": (PROMPT, {"prompt_embeddings": ones(4, HIDDEN)}, "SHAPE_MISMATCH"),
    "another width": (
        {**PROMPT, "token_dim": 24},
        {"prompt_embeddings": ones(TOKENS, 24)},
        "SHAPE_MISMATCH",
    ),
    "more than the context": (
        {**PROMPT, "num_virtual_tokens": 63},
        {"prompt_embeddings": ones(63, HIDDEN)},
        "CONTEXT_TOO_SHORT",
    ),
    "an encoder and a decoder": (
        {**PROMPT, "num_transformer_submodules": 2},
        {"prompt_embeddings": WIDE},
        "CONFIG_INVALID",
    ),
    "numbers left out": (
        {**PROMPT, "token_dim": None},
        {"prompt_embeddings": WIDE},
        "CONFIG_INVALID",
    ),
    "not a number": (PROMPT, {"prompt_embeddings": NAN}, "TENSOR_NOT_FINITE"),
    "whole modules beside it": (
        {**PROMPT, "modules_to_save": ["lm_head"]},
        {"prompt_embeddings": WIDE},
        "FEATURE_UNSUPPORTED",
    ),
    "a prefix that claims to be a prompt": (
        PROMPT,
        {"prompt_embeddings": ones(TOKENS, 2 * LAYERS * KEYS)},
        "SHAPE_MISMATCH",
    ),
    "keys of all query heads": (
        {**PREFIX, "token_dim": HIDDEN},
        {"prompt_embeddings": ones(TOKENS, 2 * LAYERS * HIDDEN)},
        "SHAPE_MISMATCH",
    ),
    "more layers": (
        {**PREFIX, "num_layers": 3},
        {"prompt_embeddings": ones(TOKENS, 2 * 3 * KEYS)},
        "SHAPE_MISMATCH",
    ),
    "heads that do not divide": (
        {**PREFIX, "num_attention_heads": 3},
        {"prompt_embeddings": ones(TOKENS, 2 * LAYERS * KEYS)},
        "CONFIG_INVALID",
    ),
    "half a bottleneck": (
        BOTTLENECK,
        dict(list(bottleneck_tensors().items())[:3]),
        "TENSOR_MISSING",
    ),
    "another size": (BOTTLENECK, bottleneck_tensors(size=4), "SHAPE_MISMATCH"),
    "another base's features": (BOTTLENECK, bottleneck_tensors(features=24), "SHAPE_MISMATCH"),
    "an unknown activation": (
        {**BOTTLENECK, "activation": "eval"},
        bottleneck_tensors(),
        "CONFIG_INVALID",
    ),
    "an unknown placement": (
        {**BOTTLENECK, "placement": "anywhere"},
        bottleneck_tensors(),
        "CONFIG_INVALID",
    ),
    "a scaling that is no number": (
        {**BOTTLENECK, "scaling": float("inf")},
        bottleneck_tensors(),
        "CONFIG_INVALID",
    ),
    "a place that is not named": (
        {**BOTTLENECK, "target_modules": ["down_proj"]},
        bottleneck_tensors(),
        "TENSOR_UNKNOWN",
    ),
    "norms that are not there": (LN_TUNING, {}, "ADAPTER_EMPTY"),
    "norms of another width": (LN_TUNING, {NORM: ones(24)}, "SHAPE_MISMATCH"),
    "a norm that is not named": (
        {**LN_TUNING, "target_modules": ["input_layernorm"]},
        {NORM: ones(HIDDEN)},
        "TENSOR_UNKNOWN",
    ),
    "more tokens than ids": (TRAINABLE_TOKENS, {ROWS: ones(3, HIDDEN)}, "SHAPE_MISMATCH"),
    "a token beyond the vocabulary": (
        {**TRAINABLE_TOKENS, "token_indices": [3, 32]},
        {ROWS: ones(2, HIDDEN)},
        "VOCABULARY_CHANGED",
    ),
    "a LoRA that claims to be a bottleneck": (
        BOTTLENECK,
        {f"{O_PROJ}.lora_A.weight": ones(2, HIDDEN)},
        "KIND_MISMATCH",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_act_is_refused(tmp_path: Path, name: str) -> None:
    config, tensors, reason = BAD[name]
    with pytest.raises(InvalidArgument) as refusal:
        check(save(tmp_path, config, tensors))
    assert refusal.value.reason == reason


def test_the_width_of_keys_is_read_off_the_projections() -> None:
    """Separate ones, and three families of fused ones."""
    assert list(key_widths(BASE)) == [KEYS, KEYS]
    for fused, out, width in (
        ("attn.c_attn", "attn.c_proj", 3 * HIDDEN),
        ("attention.query_key_value", "attention.dense", 3 * HIDDEN),
        ("self_attn.qkv_proj", "self_attn.o_proj", HIDDEN + 2 * KEYS),
    ):
        modules = (
            LinearModule(f"h.0.{fused}", HIDDEN, width),
            LinearModule(f"h.0.{out}", HIDDEN, HIDDEN),
        )
        base = Base("", "", "", "", modules, 8, 64)
        assert list(key_widths(base)) == [(width - HIDDEN) // 2]


def test_every_kind_of_peft_is_served_converted_or_refused_with_its_own_sentence() -> None:
    peft_types = pytest.importorskip("peft.utils.peft_types")
    known = {each.value for each in peft_types.PeftType}
    assert not KINDS.keys() & CONVERTED
    assert known >= CONVERTED
    said = set()
    for kind in known - KINDS.keys():
        with pytest.raises(InvalidArgument) as refusal:
            find_kind(kind)
        assert refusal.value.reason == "KIND_UNSUPPORTED"
        assert "train one of" not in refusal.value.message, f"{kind} has no sentence of its own"
        assert kind in refusal.value.message
        if kind in CONVERTED:
            assert "lorry convert" in refusal.value.message
        said.add(refusal.value.message)
    assert len(said) == len(known - KINDS.keys())
    with pytest.raises(InvalidArgument, match="'NEW' are not served; train one of"):
        find_kind("NEW")


def test_the_trainer_converts_what_the_registry_says_it_does() -> None:
    kinds = pytest.importorskip("lorry_trainer.convert.kinds")
    assert kinds.KINDS == CONVERTED
