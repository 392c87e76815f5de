"""The base that ships: small, text-safe, and ready for trainers and servers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import TemplateError
from safetensors import safe_open
from transformers import AutoTokenizer

from lorry_bases import DEFAULT_BASE, resolve
from lorry_bases.load import Base, load_base

FOLDER = resolve(DEFAULT_BASE)
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(DEFAULT_BASE, device="cpu")


def test_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 10_000_000


def test_parameters_in_one_bfloat16_file() -> None:
    assert [f.name for f in FOLDER.glob("*.safetensors")] == ["model.safetensors"]
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
        assert {t.get_dtype() for t in tensors} == {"BF16"}
        parameters = sum(torch.Size(t.get_shape()).numel() for t in tensors)
    assert 3_000_000 <= parameters <= 8_000_000


def test_model_card_has_licences_and_figures() -> None:
    card = (FOLDER / "README.md").read_text()
    for word in ("CC BY 4.0", "MIT", "public domain", "perplexity", "tokens"):
        assert word in card


def test_special_tokens(base: Base) -> None:
    assert base.eos_token_ids == {TOKENIZER.convert_tokens_to_ids("<|end|>")}
    assert TOKENIZER.pad_token_id not in base.eos_token_ids
    assert TOKENIZER.pad_token_id == base.model.config.pad_token_id
    assert len(TOKENIZER) == base.model.config.vocab_size == 4096
    assert base.context_length == TOKENIZER.model_max_length == 1024


def test_generates(base: Base) -> None:
    ids = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "Repeat: a lorry"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = base.model.generate(**ids, max_new_tokens=8, do_sample=False)
    assert out.shape[1] > ids["input_ids"].shape[1]
    assert isinstance(TOKENIZER.decode(out[0]), str)


@given(st.text())
@example("<|end|>")
@example(" two  spaces ")
@example("\r\n\t")
@example("naïve 🚚 日本, 1 234,5")
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


# What a conversation may hold: roles in any order, any content.
CONVERSATIONS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=20)}
    ),
    min_size=1,
    max_size=4,
)


@given(CONVERSATIONS, st.text(max_size=20))
def test_a_prompt_is_a_prefix_of_the_conversation_it_becomes(
    conversation: list[dict[str, str]], said: str
) -> None:
    """Trainers cut the prompt off by its length, and servers reuse its KV blocks in the next turn:
    both go wrong silently when the two renderings differ by one token."""
    prompt = rendered(conversation, add_generation_prompt=True)["input_ids"]
    whole = rendered([*conversation, {"role": "assistant", "content": said}])["input_ids"]
    assert whole[: len(prompt)] == prompt


@given(CONVERSATIONS)
def test_generation_mask_covers_what_the_assistant_says_and_its_end(
    conversation: list[dict[str, str]],
) -> None:
    out = rendered(conversation, return_assistant_tokens_mask=True)
    masked = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    said = [m["content"] + "<|end|>" for m in conversation if m["role"] == "assistant"]
    assert TOKENIZER.decode(masked) == "".join(said)


def test_unknown_role_is_refused() -> None:
    with pytest.raises(TemplateError, match="tool"):
        rendered([{"role": "tool", "content": "42"}])


def rendered(conversation: list[dict[str, str]], **options: Any) -> Any:
    return TOKENIZER.apply_chat_template(conversation, return_dict=True, **options)
