"""Between text and token ids, through the base's own tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorry_registry.errors import FailedPrecondition, InvalidArgument

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a token stands: characters `[start, end)` of the first text, or of the second; a special one nowhere."""

    in_pair: bool
    start: int
    end: int


class TextCodec:
    """A tokenizer of transformers, reduced to what serving needs.

    `encode` and `render_chat` may take long and are not to be called from two threads at once; each further thread
    takes a `copy`. `decode` is quick for what fits the context.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # The library behind a fast tokenizer decodes many times quicker than the class around it.
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self.longest_token = max(map(len, tokenizer.get_vocab()), default=1)  # in characters
        self._unprinted = frozenset(
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        )
        self.byte_ids = self._find_bytes()  # by which some tokenizers spell what has no token

    def _find_bytes(self) -> frozenset[int]:
        vocabulary = self._tokenizer.get_vocab()
        named = {byte: vocabulary.get(f"<0x{byte:02X}>") for byte in range(256)}
        letter = named[ord("A")]
        if letter is None or self.decode([letter]) != "A":  # else a name that only looks like it
            return frozenset()
        return frozenset(token_id for token_id in named.values() if token_id is not None)

    def copy(self) -> TextCodec:
        """The same, for another thread."""
        return TextCodec(copy.deepcopy(self._tokenizer))

    def serialized(self) -> str | None:
        """The tokenizer as `tokenizer.json` has it; None for one that is written in Python."""
        return None if self._backend is None else str(self._backend.to_str())

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """The ids of a text, with the special tokens that the tokenizer adds."""
        return list(self._tokenizer(text, add_special_tokens=special_tokens)["input_ids"])

    def encode_pair(self, text: str, pair: str) -> tuple[list[int], list[int], list[Place]]:
        """The ids of a text, and of another with it unless that is empty; of each token what the base is told of which
        text it is of; and where it stands.

        As training reads them. The second list is empty where this tokenizer tells no such thing, the third where it is
        written in Python.
        """
        fast = self._backend is not None
        read = self._tokenizer(text, pair or None, return_offsets_mapping=fast)
        places = (
            [
                Place(of == 1, *offset)
                for of, offset in zip(read.sequence_ids(), read["offset_mapping"], strict=True)
            ]
            if fast
            else []
        )
        return list(read["input_ids"]), list(read.get("token_type_ids", ())), places

    def spellings(self, word: str) -> list[tuple[int, ...]]:
        """The ids of a word at the start of a text and after a space; without those that say nothing of the word.

        As vLLM reads its `bad_words` (`SamplingParams.update_from_tokenizer`).
        """
        plain = self._tokenizer(word.lstrip(), add_special_tokens=False)["input_ids"]
        spaced = self._tokenizer(f" {word.lstrip()}", add_special_tokens=False)["input_ids"]
        # A tokenizer that puts the space into a token of its own has no other spelling.
        spellings = [plain, spaced] if spaced[1:] != plain else [plain]
        return list(dict.fromkeys(map(tuple, filter(None, spellings))))

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The ids of a conversation of (role, content), up to where the assistant's turn begins."""
        if not self._tokenizer.chat_template:
            raise FailedPrecondition(
                "This base has no chat template; send the prompt as text or as token ids.",
                reason="NO_CHAT_TEMPLATE",
            )
        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(
                conversation, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except (
            Exception
        ) as error:  # the template is the base's own program: it may refuse with anything
            raise InvalidArgument(
                f"The base's chat template refuses this conversation: {error}",
                reason="CHAT_TEMPLATE_REFUSED",
                error=error,
            ) from error
        return list(rendered)

    def without_special(self, token_ids: Sequence[int]) -> list[int]:
        """The ids that stand for text."""
        return [token_id for token_id in token_ids if token_id not in self._unprinted]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        if self._backend is not None:
            return str(self._backend.decode(list(token_ids), skip_special_tokens=False))
        return str(self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))
