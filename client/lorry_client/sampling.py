"""What a generation is asked: the prompt's three forms and the sampling options, described once for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


# Plain text, a conversation, or token ids.
Prompt = str | Sequence[Message] | Sequence[int]

# Which hidden states make a prompt's vector: the last token's, or the mean of all.
Pooling = Literal["last", "mean"]


class Sampling(TypedDict, total=False):
    """How to choose tokens and when to stop; what is absent is left to the server.

    max_tokens: at most this many new tokens.
    temperature: 0 (the default) chooses the likeliest token.
    top_k: choose among this many likeliest tokens; 0 means all.
    top_p: choose among the likeliest tokens whose probabilities reach this sum.
    min_p: choose among tokens at least this times as likely as the likeliest.
    repetition_penalty: above 1 makes tokens of the prompt and the answer less likely.
    presence_penalty: taken from the logits of tokens that the answer has.
    frequency_penalty: taken from them for each time that the answer has them.
    logit_bias: what is added to the logits of token ids.
    bad_words: words that must not occur.
    bad_token_sequences: sequences of token ids that must not occur.
    min_tokens: no stop token before so many tokens.
    seed: the same seed gives the same text.
    stop: strings that end the text and are not part of it; one, or several.
    stop_token_ids: token ids that end the text.
    ignore_eos: go on past the base's end-of-sequence tokens.
    logprobs: report log-probabilities of the chosen token and of this many of the likeliest.
    prompt_logprobs: report those of the prompt's tokens after the first, too.
    json_schema: a JSON schema that the answer must have, as JSON or as what `json.dumps` makes JSON of.
    regex: a regular expression that the answer must match.
    grammar: a grammar in Lark's syntax that the answer must have.
    n: answers that are wanted; they share the prompt's memory.
    best_of: answers that are generated; those with the highest mean log-probability come back.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float]
    bad_words: Sequence[str]
    bad_token_sequences: Sequence[Sequence[int]]
    min_tokens: int | None
    seed: int | None
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    grammar: str | None
    n: int | None
    best_of: int | None
