"""What a generation is asked: the prompt's three forms and the sampling options, described once for every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


# Plain text, a conversation, or token ids.
Prompt = str | Sequence[Message] | Sequence[int]


class Sampling(TypedDict, total=False):
    """How to choose tokens and when to stop; what is absent is left to the server.

    max_tokens: at most this many new tokens.
    temperature: 0 (the default) chooses the likeliest token.
    top_k: choose among this many likeliest tokens; 0 means all.
    top_p: choose among the likeliest tokens whose probabilities reach this sum.
    seed: the same seed gives the same text.
    stop: strings that end the text and are not part of it; one, or several.
    stop_token_ids: token ids that end the text.
    ignore_eos: go on past the base's end-of-sequence tokens.
    logprobs: report log-probabilities of the chosen token and of this many of the likeliest.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int | None
