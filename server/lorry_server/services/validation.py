"""Whether the engine can take a request: a refusal names the value and the rule."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.base import ServedBase
from lorry_server.engine.request import SamplingParams
from lorry_server.services import adjustments
from lorry_server.services.checks import check_between, check_count, check_ids, invalid
from lorry_server.services.forms import CompiledForm

DEFAULT_MAX_TOKENS = 256
MAX_TEMPERATURE = 100.0
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_STOP_TOKEN_IDS = 256
MAX_CANDIDATES = 32


@dataclass(frozen=True, slots=True)
class Decoding:
    """What the engine does with each candidate, and what is left to the services."""

    sampling: SamplingParams  # of the first candidate
    stops: tuple[str, ...]
    n: int = 1  # candidates that are answered with
    best_of: int = 1  # candidates that are generated
    prompt_logprobs: int | None = None
    tells_logprobs: bool = False  # to the client; the choice of the best may need them too
    form: CompiledForm | None = None

    @property
    def chooses(self) -> bool:
        """Whether the best candidates are to be found first."""
        return self.best_of > self.n

    @property
    def candidates(self) -> list[SamplingParams]:
        """Each as if it were a request of its own with a seed of its own."""
        return [
            replace(self.sampling, seed=_seed_of(self.sampling.seed, index))
            for index in range(self.best_of)
        ]


def check_writes(base: ServedBase, method: str) -> None:
    """Refuses what an encoder cannot do. `method` is the RPC that asks for it."""
    if base.is_encoder:
        raise FailedPrecondition(
            f"The base {base.name} ({base.architecture}) is an encoder, which reads texts and writes none: {method} "
            "needs a decoder. Ask this one for labels (Classify, ClassifyTokens) or vectors (Embed).",
            reason="BASE_IS_ENCODER",
            base=base.name,
            architecture=base.architecture,
            method=method,
            methods="Classify,ClassifyTokens,Embed",
        )


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
    check_ids(token_ids, base, "Token {index} of the prompt")


def check_fits(token_ids: Sequence[int], base: ServedBase, what: str = "The prompt") -> None:
    """Refuses what the context does not hold, where no answer follows, or ids that the vocabulary does not have."""
    if len(token_ids) > base.context_length:
        raise InvalidArgument(
            f"{what} has {len(token_ids)} tokens; the context holds {base.context_length}. Shorten it.",
            reason="PROMPT_TOO_LONG",
            prompt_tokens=len(token_ids),
            context_length=base.context_length,
        )
    check_ids(token_ids, base, f"Token {{index}} of {what[0].lower()}{what[1:]}")


def wants_merged(requested: pb.Execution, *, of_adapter: bool) -> bool:
    """Whether a request is to begin once its adapter is merged."""
    if requested not in (pb.EXECUTION_UNSPECIFIED, pb.EXECUTION_MERGED):
        raise invalid("execution", requested, "MERGED, or unset")
    if requested == pb.EXECUTION_MERGED and not of_adapter:
        raise InvalidArgument(
            "execution is MERGED, and the request names no adapter: there is nothing to merge. Name one, or leave "
            "execution out.",
            reason="EXECUTION_WITHOUT_ADAPTER",
        )
    return requested == pb.EXECUTION_MERGED


def decoding(
    requested: pb.SamplingParameters,
    *,
    prompt_tokens: int,
    base: ServedBase,
    spellings: Sequence[tuple[int, ...]] = (),
    form: CompiledForm | None = None,
) -> Decoding:
    """Checks everything that a client may ask of one request's sampling; `spellings` are those of its bad words."""
    max_tokens = _max_tokens(requested, base.context_length - prompt_tokens)
    temperature = _temperature(requested)
    logprobs = _logprobs(requested, "logprobs")
    n, best_of = _candidates(requested, temperature)
    sampling = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=_top_k(requested, base),
        top_p=_top_p(requested),
        min_p=adjustments.min_p(requested),
        repetition_penalty=adjustments.repetition_penalty(requested),
        presence_penalty=adjustments.presence_penalty(requested),
        frequency_penalty=adjustments.frequency_penalty(requested),
        logit_bias=adjustments.logit_bias(requested, base),
        bad_words=(*spellings, *adjustments.bad_token_sequences(requested, base)),
        min_tokens=_min_tokens(requested, max_tokens),
        seed=requested.seed if requested.HasField("seed") else secrets.randbits(63),
        stop_token_ids=_stop_token_ids(requested, base),
        top_logprobs=0 if logprobs is None and best_of > n else logprobs,
    )
    return Decoding(
        sampling,
        _stops(requested, base),
        n,
        best_of,
        prompt_logprobs=_logprobs(requested, "prompt_logprobs"),
        tells_logprobs=logprobs is not None,
        form=form,
    )


def _logprobs(requested: pb.SamplingParameters, field: str) -> int | None:
    if not requested.HasField(field):
        return None
    count: int = getattr(requested, field)
    check_between(field, count, 0, MAX_LOGPROBS)
    return count


def _candidates(requested: pb.SamplingParameters, temperature: float) -> tuple[int, int]:
    """(n, best_of)"""
    n = requested.n if requested.HasField("n") else 1
    check_between("n", n, 1, MAX_CANDIDATES)
    best_of = requested.best_of if requested.HasField("best_of") else n
    check_between("best_of", best_of, n, MAX_CANDIDATES)
    if best_of > 1 and temperature == 0:
        field = "n" if n > 1 else "best_of"
        raise invalid(
            field, best_of, "1 where the temperature is 0, for all answers would be the same"
        )
    return n, best_of


def _seed_of(seed: int, index: int) -> int:
    """Of the first candidate the request's own, so that it is the answer that n = 1 gives."""
    if index == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big")


def _min_tokens(requested: pb.SamplingParameters, max_tokens: int) -> int:
    if not 0 <= requested.min_tokens <= max_tokens:
        raise invalid("min_tokens", requested.min_tokens, f"between 0 and max_tokens, {max_tokens}")
    return requested.min_tokens


def _max_tokens(requested: pb.SamplingParameters, left: int) -> int:
    if not requested.HasField("max_tokens"):
        return min(DEFAULT_MAX_TOKENS, left)
    if requested.max_tokens < 1:
        raise invalid("max_tokens", requested.max_tokens, "at least 1")
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
    check_between("temperature", requested.temperature, 0.0, MAX_TEMPERATURE)
    return requested.temperature


def _top_k(requested: pb.SamplingParameters, base: ServedBase) -> int:
    if requested.top_k < 0:
        raise invalid("top_k", requested.top_k, "0 (all) or more")
    return 0 if requested.top_k >= base.vocab_size else requested.top_k


def _top_p(requested: pb.SamplingParameters) -> float:
    if not requested.HasField("top_p"):
        return 1.0
    if not 0.0 < requested.top_p <= 1.0:
        raise invalid("top_p", requested.top_p, "above 0 and at most 1")
    return requested.top_p


def _stop_token_ids(requested: pb.SamplingParameters, base: ServedBase) -> frozenset[int]:
    check_count("stop_token_ids", len(requested.stop_token_ids), MAX_STOP_TOKEN_IDS, "ids")
    check_ids(requested.stop_token_ids, base, "stop_token_ids[{index}]")
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
    check_count("stop", len(stops), MAX_STOPS, "strings")
    for index, stop in enumerate(stops):
        if not 1 <= len(stop.encode()) <= MAX_STOP_BYTES:
            raise invalid(
                f"stop[{index}]", f"{len(stop.encode())} bytes", f"1 to {MAX_STOP_BYTES} bytes long"
            )
    return stops
