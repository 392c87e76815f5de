"""A random Llama of a few thousand parameters with its own tokenizer, and recipes that run on it in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' and not loop.first -%}{{- raise_exception('system must come first') -}}{%- endif -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- else -%}{{- message['content'] + '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Context of 128 tokens; a token per byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bases") / "tiny-random"
    specials = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(specials + alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=specials[2:],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(specials) + len(alphabet),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSON lines; gives the file."""

    def write(rows: Rows, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def letters(count: int) -> Rows:
    """Rows whose answer is one of three letters, decided by a word in the question."""
    kinds = {"red": "a", "green": "b", "blue": "c"}
    words = list(kinds)
    return [
        {"instruction": f"{words[i % 3]} {i}", "output": kinds[words[i % 3]]} for i in range(count)
    ]


@pytest.fixture
def letter_rows() -> Rows:
    return letters(60)


@pytest.fixture
def tiny_recipe(base_folder: Path) -> Callable[..., Any]:
    """A recipe on the random base for `rows.jsonl`; keyword arguments extend its sections, empty ones replace them."""
    from lorry_trainer.recipe_file import parse_recipe

    def build(**sections: Any) -> Any:
        values: dict[str, Any] = {
            "base": str(base_folder),
            "method": "lora",
            "lora": {"rank": 4},
            "data": {"path": "rows.jsonl"},
            "training": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01, "device": "cpu"},
            "evaluation": {"max_new_tokens": 3, "max_rows": 8},
        }
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(values.get(name), dict)
            values[name] = values[name] | section if both and section else section
        return parse_recipe(json.dumps(values))  # JSON is YAML

    return build
