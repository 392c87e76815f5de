"""Load a base: quantized, frozen, ready for inference. Imports torch.

Public interfaces of transformers and bitsandbytes only; no remote code, no pickle.
Knows nothing about adapters or requests.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.utils import logging

from lorry_bases.catalog import resolve
from lorry_bases.fingerprint import NF4, Quantization, fingerprint
from lorry_bases.shapes import padding_place

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
    new_modules: tuple[str, ...] = ()  # names of modules whose weights are new: a head's
    is_encoder: bool = False  # it reads whole texts, and generates none


@dataclass(frozen=True)
class Head:
    """What stands on a base's last hidden states where it is to judge rather than to write.

    Its weights are new, drawn from torch's generator, and not quantized: they are learnt and
    published with an adapter.
    """

    auto_class: Any  # transformers' AutoModelForSequenceClassification and its like
    labels: tuple[str, ...] = ()  # a single one makes it a regression; none where it has no labels

    def config(self) -> dict[str, Any]:
        """What it adds to the base's configuration."""
        if not self.labels:
            return {}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: i for i, label in enumerate(self.labels)},
        }


# As transformers' classes call their heads, and what stands between them and the last layer.
TASK_HEADS = ("score", "classifier", "pre_classifier", "qa_outputs")
_HEADS = (*TASK_HEADS, "pooler", "lm_head")


def load_base(
    base: str,
    *,
    quantization: Quantization = NF4,
    device: str | None = None,
    attn_implementation: str | None = None,
    head: Head | None = None,
) -> Base:
    """Find `base` (see `resolve`) and load it onto one device: `device`, or else CUDA, or a CPU.

    Computes in bfloat16 on CUDA and in float32 on a CPU. Embeddings and heads are never quantized.
    With `head`, encoders load too.

    Raises BaseNotFound, or BaseRefused.
    """
    path = resolve(base)
    model, new_modules = load_model(
        base,
        path,
        quantization=quantization,
        device=device,
        attn_implementation=attn_implementation,
        head=head,
    )
    tokenizer = _tokenizer(path)
    return Base(
        name=base,
        path=path,
        fingerprint=fingerprint(path, quantization),
        quantization=quantization,
        model=model,
        tokenizer=tokenizer,
        architecture=type(model).__name__,
        context_length=context_length(model),
        eos_token_ids=_eos_token_ids(model, tokenizer),
        new_modules=new_modules,
        is_encoder=is_encoder(path),
    )


def load_served(base: str, *, device: str | None = None) -> Base:
    """The base as a server runs it, in plain NF4: a decoder as it is, an encoder under the head that labels a text.

    That head's own weights (`new_modules`) are of no consequence: adapters bring theirs, and the paths in their files
    are those of such a model. Raises BaseNotFound, or BaseRefused.
    """
    head = Head(AutoModelForSequenceClassification) if is_encoder(resolve(base)) else None
    return load_base(base, device=device, head=head)


def load_model(
    base: str,
    path: Path,
    *,
    quantization: Quantization = NF4,
    device: str | None = None,
    attn_implementation: str | None = None,
    head: Head | None = None,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model in the folder `path` and the names of its new modules, as `load_base` has them; `base` is for messages.

    On the device `meta` it has every layer, in its place and of its kind, and no weight is held. Raises BaseRefused.
    """
    _refuse_misfits(base, path, quantization)
    if head is None and is_encoder(path):
        raise BaseRefused(
            f"base {base!r} is an encoder (model_type {_config(path).get('model_type')!r}), which generates no text: "
            "take a decoder, or one of the objectives that put a head on it (classification, tokens, extraction)"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    try:
        with _without_report() if head else nullcontext():
            model, found = (head.auto_class if head else AutoModelForCausalLM).from_pretrained(
                path,
                quantization_config=_for_bitsandbytes(quantization, dtype, head),
                dtype=dtype,
                device_map={"": device},
                attn_implementation=attn_implementation,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **(head.config() if head else {}),
            )
    except ValueError as error:  # an architecture, an attention or a file that transformers refuses
        model_type = _config(path).get("model_type")
        raise BaseRefused(
            f"base {base!r} (model_type {model_type!r}) was refused by transformers, which Lorry "
            f"lets run no code of the base's own: {error}"
        ) from error
    new_modules = () if head is None else _new_modules(base, model, found["missing_keys"])
    model.eval().requires_grad_(False)
    _keep_as_loaded(model)
    return model, new_modules


@contextmanager
def _without_report() -> Iterator[None]:
    """transformers reports a new head at length, as if it were a fault; what is one `_new_modules` refuses."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def is_encoder(path: Path) -> bool:
    """Whether the base in a folder reads whole texts and generates none: pretrained to fill in what is masked."""
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except ValueError:  # a family that transformers does not know, which is for loading to say
        return False
    writes = getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not writes


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


def _new_modules(base: str, model: Any, missing: Collection[str]) -> tuple[str, ...]:
    """The modules that the base has no weights for. Only the head may be new: some classes look for a decoder's layers
    under other names than those they have. Raises BaseRefused."""
    new = {part for name in missing for part in name.split(".") if part in _HEADS}
    gaps = sorted(name for name in missing if not new & {*name.split(".")})
    if gaps:
        raise BaseRefused(
            f"base {base!r} cannot be a {type(model).__name__}: transformers finds no weights for "
            f"{len(gaps)} of its tensors ({gaps[0]}, …). Take an encoder"
        )
    return tuple(sorted(new))


def _for_bitsandbytes(
    quantization: Quantization, dtype: torch.dtype, head: Head | None
) -> BitsAndBytesConfig | None:
    if quantization.type == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
        # Patterns over dotted paths. None: what transformers finds, which is the output head.
        llm_int8_skip_modules=[rf".*\b{name}\b" for name in _HEADS] if head else None,
    )


def context_length(model: PreTrainedModel) -> int:
    """How many positions the base serves. LongRoPE turns every position by other angles once a sequence is longer than
    the original context; in a batch with such a one, or after keys were cached, short ones would be turned too. So
    the base is served within its original context. RoBERTa and its kin count from behind the padding's place."""
    config: Any = model.config.get_text_config()
    length: int = config.max_position_embeddings
    padding = padding_place(model)
    if padding is not None:
        length -= padding + 1
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
    settings = getattr(model, "generation_config", None)  # what only judges has none
    declared = getattr(settings, "eos_token_id", None)
    ids = set(declared if isinstance(declared, list) else [declared])
    if tokenizer is not None:
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids - {None})
