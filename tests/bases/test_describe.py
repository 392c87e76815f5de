"""What a registry is told of a base: the same with its weights and without, and of an encoder what its heads need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from lorry_bases import BaseNotFound, fingerprint
from lorry_bases.describe import describe, describe_unloaded
from lorry_bases.load import BaseRefused, Head, load_base, load_served
from lorry_bases.shapes import linear_shapes, parameter_shapes

_SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODERS: dict[str, PreTrainedConfig] = {
    "BertModel": BertConfig(**_SMALL),
    "DistilBertModel": DistilBertConfig(
        vocab_size=96, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=64
    ),
    "RobertaModel": RobertaConfig(**_SMALL),
    "DebertaV2Model": DebertaV2Config(**_SMALL),
    "ModernBertModel": ModernBertConfig(**_SMALL, cls_token_id=3, sep_token_id=4),
}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the name of the architecture without a head."""
    folder = tmp_path_factory.mktemp("bases") / str(request.param)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(ENCODERS[request.param]).save_pretrained(folder)
    return folder


def test_a_decoder_is_described_without_its_weights_as_with_them(random_base: Path) -> None:
    """A server that announces it later must say the same, or the registry takes it for a forgery."""
    assert describe_unloaded(str(random_base)) == describe(load_base(str(random_base)))


def test_the_base_that_ships_is_described_as_it_is_served() -> None:
    assert describe_unloaded("lorry-tiny") == describe(load_base("lorry-tiny"))


@pytest.mark.parametrize(
    "judge",
    [
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
    ],
)
def test_whatever_an_adapter_of_an_encoder_has_is_described(encoder: Path, judge: Any) -> None:
    """With the heads of each objective. A DistilBERT could not classify: its pre_classifier was held for a gap."""
    told = describe_unloaded(str(encoder))
    # RoBERTa's places begin behind that of the padding.
    length = 63 if encoder.name == "RobertaModel" else 64
    assert (told.architecture, told.is_encoder, told.context_length) == (encoder.name, True, length)
    assert told.fingerprint == fingerprint(encoder)
    labels = () if judge is AutoModelForQuestionAnswering else ("a", "b", "c")
    loaded = load_base(str(encoder), device="cpu", head=Head(judge, labels))
    heads = set(loaded.new_modules)
    assert heads
    for path, features in linear_shapes(loaded.model).items():
        if heads.isdisjoint(path.split(".")):
            assert told.modules[path] == features
        else:
            assert path not in told.modules
    shapes = {each.path: each.shape for each in told.parameters}
    for path, shape in ((each.path, each.shape) for each in parameter_shapes(loaded.model)):
        is_head = not heads.isdisjoint(path.split("."))
        assert shapes[path] == ((0, *shape[1:]) if is_head else shape)


def test_an_encoder_is_described_as_it_is_served(encoder: Path) -> None:
    """A server announces what `lorry announce` did: adapters published after one are found after the other."""
    served = load_served(str(encoder), device="cpu")
    assert served.is_encoder
    assert describe_unloaded(str(encoder)) == describe(served)
    paths = {path for path, _ in served.model.named_modules()}
    assert set(describe(served).modules) <= paths


def test_an_encoder_is_no_decoder(encoder: Path) -> None:
    """A BERT was loaded as a causal LM, and served as if it wrote text."""
    with pytest.raises(BaseRefused, match=r"is an encoder .*generates no text"):
        load_base(str(encoder))


def test_what_is_no_base_is_not_described(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFound):
        describe_unloaded(str(tmp_path))
