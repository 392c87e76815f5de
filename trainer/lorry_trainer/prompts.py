"""Text to token ids, as training and evaluation both see it: the base's chat template for chats, plain text as is."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example, Text

_AT_A_TIME = 1000  # texts: fast enough, and not all their tokens in memory at once


def refuse_base_without(tokenizer: Any, examples: list[Example], base: str) -> None:
    """Raise DataError when the base cannot render the examples; a template may refuse a role or an order of them."""
    if tokenizer is None:
        raise DataError(f"base {base!r} has no tokenizer in its folder; training needs one")
    if isinstance(examples[0].prompt, str):
        return
    if not tokenizer.chat_template:
        raise DataError(
            f"base {base!r} has no chat template, which chats and instructions are rendered with; "
            "give the data as plain `prompt` and `completion`, or take an instruction-tuned base"
        )
    for example in examples:
        try:
            tokenizer.apply_chat_template(example.whole, tokenize=False)
        except TemplateError as error:
            raise DataError(
                f"{example.place}: the chat template of {base!r} refuses it: {error}"
            ) from error


def encode(tokenizer: Any, text: Text, *, to_answer: bool = False) -> list[int]:
    """The token ids of `text`; `to_answer` opens the assistant's turn after a chat."""
    if isinstance(text, str):
        ids = tokenizer(text)["input_ids"]
    else:
        ids = tokenizer.apply_chat_template(
            text, add_generation_prompt=to_answer, tokenize=True, return_dict=False
        )
    return list(ids)


def count_tokens(tokenizer: Any, texts: list[Text]) -> list[int]:
    """Tokens in training; plain text gets one to end it. All are of one kind: plain, or chats."""
    lengths: list[int] = []
    for start in range(0, len(texts), _AT_A_TIME):
        some = texts[start : start + _AT_A_TIME]
        if isinstance(some[0], str):
            lengths += [len(ids) + 1 for ids in tokenizer(some)["input_ids"]]
        else:
            made = tokenizer.apply_chat_template(some, tokenize=True, return_dict=False)
            lengths += map(len, made)
    return lengths


def answer_length(tokenizer: Any, examples: list[Example]) -> int:
    """Tokens of the longest answer, with the one that ends it."""
    answers = [example.answer for example in examples]
    return 1 + max(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"])
