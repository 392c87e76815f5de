"""Random encoders of several families, and adapters with heads on them as PEFT writes them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from lorry_bases.load import Base, Head, load_base

VOCAB_SIZE = 96
CONTEXT_LENGTH = 64
WINDOW = 8  # tokens around one that it sees in a layer with a window, half of them before it

_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": CONTEXT_LENGTH,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BEHIND_PADDING = {**_SMALL, "pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}
_BEHIND_PADDING["max_position_embeddings"] = CONTEXT_LENGTH + 2

CONFIGS: Mapping[str, PreTrainedConfig] = {
    "bert": BertConfig(**_SMALL),
    "bert-with-pooler": BertConfig(**_SMALL),
    "roberta": RobertaConfig(**_BEHIND_PADDING),
    "xlm-roberta": XLMRobertaConfig(**_BEHIND_PADDING),
    "camembert": CamembertConfig(**_BEHIND_PADDING),
    "distilbert": DistilBertConfig(
        vocab_size=VOCAB_SIZE,
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=CONTEXT_LENGTH,
        initializer_range=0.1,
    ),
    "electra": ElectraConfig(**_SMALL, embedding_size=32),
    "ernie": ErnieConfig(**_SMALL),
    "modernbert": ModernBertConfig(
        **{**_SMALL, "num_hidden_layers": 3},
        cls_token_id=3,
        sep_token_id=4,
        local_attention=WINDOW,
        global_attn_every_n_layers=2,
        classifier_pooling="mean",
    ),
}


def random_encoder(family: str, folder: Path, seed: int = 0) -> Path:
    """Saves one as it is pretrained: most have no weights for what stands behind their last layer."""
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[family])
    model: Any = (
        BertForPreTraining(config)
        if family == "bert-with-pooler"
        else AutoModelForMaskedLM.from_config(config)
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # starts at zero, and would test nothing
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def judging(base: Path, num_labels: int, seed: int = 0) -> Base:
    """The base as an adapter for so many labels was trained on it."""
    torch.manual_seed(seed)
    labels = tuple(f"label {index}" for index in range(num_labels))
    return load_base(str(base), device="cpu", head=Head(AutoModelForSequenceClassification, labels))


def save_classifier(
    base: Path, folder: Path, *, num_labels: int, seed: int, **options: Any
) -> Path:
    """Saves a random adapter that acts, with its own head, as the trainer does. `options` are those of `LoraConfig`."""
    loaded = judging(base, num_labels, seed)
    settings: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    config = LoraConfig(
        task_type="SEQ_CLS", modules_to_save=list(loaded.new_modules), **settings | options
    )
    get_peft_model(loaded.model, config).save_pretrained(folder, save_embedding_layers=False)
    return folder


class Plain:
    """PEFT, one adapter and one text at a time, on the same 4-bit base."""

    def __init__(self, base: Path, folder: Path, num_labels: int) -> None:
        self.model: Any = PeftModel.from_pretrained(judging(base, num_labels, 99).model, folder)
        self.model.eval()

    @torch.inference_mode()
    def labels(self, token_ids: list[int]) -> list[float]:
        said: list[float] = self.model(torch.tensor([token_ids])).logits[0].tolist()
        return said

    @torch.inference_mode()
    def states(self, token_ids: list[int], **inputs: torch.Tensor) -> torch.Tensor:
        """[num_tokens, hidden]"""
        trunk = self.model.get_base_model().base_model
        states: torch.Tensor = trunk(torch.tensor([token_ids]), **inputs).last_hidden_state[0]
        return states
