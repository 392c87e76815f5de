"""Whether the engine can take a request: a refusal names the value and the rule.

Comparisons are written so that NaN fails them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.base import ServedBase
from lorry_server.engine.request import SamplingParams

DEFAULT_MAX_TOKENS = 256
MAX_TEMPERATURE = 100.0
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_STOP_TOKEN_IDS = 256


@dataclass(frozen=True, slots=True)
class Decoding:
    """What the engine does, and what is left to the services: stop strings."""

    sampling: SamplingParams
    stops: tuple[str, ...]


def check_prompt(token_ids: Sequence[int], base: ServedBase) -> None:
    """Refuses a prompt that leaves no room for an answer, or ids that the vocabulary does not have."""
    if len(token_ids) >= base.context_length:
        raise InvalidArgument(
            f"The prompt has {len(token_ids)} tokens; with room for an answer the context holds "
            f"{base.context_length - 1}. Shorten the prompt.",
            reason="PROMPT_TOO_LONG",
            prompt_tokens=len(token_ids),
            context_length=base.context_length,
        )
    _check_ids(token_ids, base, "Token {index} of the prompt")


def decoding(requested: pb.SamplingParameters, *, prompt_tokens: int, base: ServedBase) -> Decoding:
    """Checks everything that a client may ask of the sampling of one request."""
    logprobs = requested.logprobs if requested.HasField("logprobs") else None
    if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
        raise _invalid("logprobs", logprobs, f"between 0 and {MAX_LOGPROBS}")
    stop_token_ids = _stop_token_ids(requested, base)
    sampling = SamplingParams(
        max_tokens=_max_tokens(requested, base.context_length - prompt_tokens),
        temperature=_temperature(requested),
        top_k=_top_k(requested, base),
        top_p=_top_p(requested),
        seed=requested.seed if requested.HasField("seed") else secrets.randbits(63),
        stop_token_ids=stop_token_ids,
        top_logprobs=logprobs,
    )
    return Decoding(sampling, _stops(requested, base))


def _max_tokens(requested: pb.SamplingParameters, left: int) -> int:
    if not requested.HasField("max_tokens"):
        return min(DEFAULT_MAX_TOKENS, left)
    if requested.max_tokens < 1:
        raise _invalid("max_tokens", requested.max_tokens, "at least 1")
    if requested.max_tokens > left:
        raise InvalidArgument(
            f"max_tokens is {requested.max_tokens}, but the prompt leaves {left} tokens of the context; "
            "ask for fewer, or for none and get what is left, at most "
            f"{DEFAULT_MAX_TOKENS}.",
            reason="MAX_TOKENS_TOO_LARGE",
            max_tokens=requested.max_tokens,
            tokens_left=left,
        )
    return requested.max_tokens


def _temperature(requested: pb.SamplingParameters) -> float:
    if not 0.0 <= requested.temperature <= MAX_TEMPERATURE:
        raise _invalid("temperature", requested.temperature, f"between 0 and {MAX_TEMPERATURE:g}")
    return requested.temperature


def _top_k(requested: pb.SamplingParameters, base: ServedBase) -> int:
    if requested.top_k < 0:
        raise _invalid("top_k", requested.top_k, "0 (all) or more")
    return 0 if requested.top_k >= base.vocab_size else requested.top_k


def _top_p(requested: pb.SamplingParameters) -> float:
    if not requested.HasField("top_p"):
        return 1.0
    if not 0.0 < requested.top_p <= 1.0:
        raise _invalid("top_p", requested.top_p, "above 0 and at most 1")
    return requested.top_p


def _stop_token_ids(requested: pb.SamplingParameters, base: ServedBase) -> frozenset[int]:
    if len(requested.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise _invalid(
            "stop_token_ids",
            f"{len(requested.stop_token_ids)} ids",
            f"at most {MAX_STOP_TOKEN_IDS}",
        )
    _check_ids(requested.stop_token_ids, base, "stop_token_ids[{index}]")
    own = frozenset(requested.stop_token_ids)
    return own if requested.ignore_eos else own | base.eos_token_ids


def _stops(requested: pb.SamplingParameters, base: ServedBase) -> tuple[str, ...]:
    stops = tuple(requested.stop)
    if stops and base.text is None:
        raise FailedPrecondition(
            f"The base {base.name} has no tokenizer, so it cannot find stop strings; use stop_token_ids.",
            reason="NO_TOKENIZER",
            base=base.name,
        )
    if len(stops) > MAX_STOPS:
        raise _invalid("stop", f"{len(stops)} strings", f"at most {MAX_STOPS}")
    for index, stop in enumerate(stops):
        if not 1 <= len(stop.encode()) <= MAX_STOP_BYTES:
            raise _invalid(
                f"stop[{index}]", f"{len(stop.encode())} bytes", f"1 to {MAX_STOP_BYTES} bytes long"
            )
    return stops


def _check_ids(token_ids: Sequence[int], base: ServedBase, place: str) -> None:
    for index, value in enumerate(token_ids):
        if not 0 <= value < base.vocab_size:
            raise InvalidArgument(
                f"{place.format(index=index)} is {value}; ids go from 0 to {base.vocab_size - 1}.",
                reason="TOKEN_ID_OUT_OF_RANGE",
                index=index,
                value=value,
                vocab_size=base.vocab_size,
            )


def _invalid(field: str, value: object, rule: str) -> InvalidArgument:
    """The reason names the field: TEMPERATURE_INVALID."""
    reason = f"{field.partition('[')[0].upper()}_INVALID"
    return InvalidArgument(
        f"{field} is {value}; it must be {rule}.", reason=reason, field=field, value=value
    )
