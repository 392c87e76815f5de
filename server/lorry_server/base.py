"""What the services know of the base: numbers and a way between text and tokens. Not its weights."""

from __future__ import annotations

from dataclasses import dataclass

from lorry_server.services.text import TextCodec


@dataclass(frozen=True, slots=True)
class ServedBase:
    """The base that a server runs."""

    name: str  # as the operator gave it
    fingerprint: str
    architecture: str
    device: str  # `cpu` or `cuda`
    context_length: int  # tokens, prompt and answer together
    vocab_size: int
    eos_token_ids: frozenset[int]
    text: TextCodec | None  # None: the base has no tokenizer; requests send token ids
    is_encoder: bool = False  # it reads whole texts, for their labels and vectors, and writes none
    token_types: int = 0  # how many texts of one prompt an encoder tells apart; 0: it is not told
