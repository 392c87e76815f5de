"""Load a base: quantized, frozen, ready for inference. Imports torch.

Public interfaces of transformers and bitsandbytes only; no remote code, no pickle.
Knows nothing about adapters or requests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from lorry_bases.catalog import resolve
from lorry_bases.fingerprint import NF4, Quantization, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BLOCK_SIZE = 64  # transformers has no setting for it
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class BaseRefused(ValueError):
    """The base was found but cannot be loaded as asked. The message names the value, the rule and
    the way out."""


@dataclass(frozen=True)
class Base:
    """A loaded base. `model` is in eval mode and no parameter of it requires a gradient."""

    name: str  # as the user gave it
    path: Path
    fingerprint: str
    quantization: Quantization
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None  # None when the folder has none
    architecture: str  # the model's class, as in config.json: LlamaForCausalLM
    context_length: int  # tokens, prompt and answer together
    eos_token_ids: frozenset[int]  # any of them ends an answer


def load_base(
    base: str,
    *,
    quantization: Quantization = NF4,
    device: str | None = None,
    attn_implementation: str | None = None,
) -> Base:
    """Find `base` (see `resolve`) and load it onto one device: `device`, or else CUDA, or a CPU.

    Computes in bfloat16 on CUDA and in float32 on a CPU. Embeddings and `lm_head` are never
    quantized.

    Raises BaseNotFound, or BaseRefused.
    """
    path = resolve(base)
    _refuse_misfits(base, path, quantization)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            quantization_config=_for_bitsandbytes(quantization, dtype),
            dtype=dtype,
            device_map={"": device},
            attn_implementation=attn_implementation,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except ValueError as error:  # an architecture, an attention or a file that transformers refuses
        model_type = _config(path).get("model_type")
        raise BaseRefused(
            f"base {base!r} (model_type {model_type!r}) was refused by transformers, which Lorry "
            f"lets run no code of the base's own: {error}"
        ) from error
    model.eval().requires_grad_(False)
    _keep_as_loaded(model)
    tokenizer = _tokenizer(path)
    return Base(
        name=base,
        path=path,
        fingerprint=fingerprint(path, quantization),
        quantization=quantization,
        model=model,
        tokenizer=tokenizer,
        architecture=type(model).__name__,
        context_length=_context_length(model.config.get_text_config()),
        eos_token_ids=_eos_token_ids(model, tokenizer),
    )


def _config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return config


def _refuse_misfits(base: str, path: Path, quantization: Quantization) -> None:
    config = _config(path)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise BaseRefused(
            f"base {base!r} is already quantized ({method}); Lorry quantizes original weights "
            "itself. Give the unquantized model"
        )
    if quantization.type == "nf4" and quantization.block_size != _BLOCK_SIZE:
        raise BaseRefused(
            f"block_size {quantization.block_size} cannot be loaded: bitsandbytes through "
            f"transformers quantizes in blocks of {_BLOCK_SIZE}"
        )


def _for_bitsandbytes(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if quantization.type == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
    )


def _context_length(config: Any) -> int:
    """How many positions the base serves. LongRoPE turns every position by other angles once a sequence is longer than
    the original context; in a batch with such a one, or after keys were cached, short ones would be turned too. So
    the base is served within its original context."""
    length: int = config.max_position_embeddings
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        length = min(length, rope["original_max_position_embeddings"])
    return length


def _keep_as_loaded(model: torch.nn.Module) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes would lay a 4-bit layer out anew at its first forward: from
    then on it computes in bfloat16, rounds its scales to it and cannot be dequantized any more."""
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def _tokenizer(path: Path) -> PreTrainedTokenizerBase | None:
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    declared = model.generation_config.eos_token_id
    ids = set(declared if isinstance(declared, list) else [declared])
    if tokenizer is not None:
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids - {None})
