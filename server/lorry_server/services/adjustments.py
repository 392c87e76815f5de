"""What a request may change in the model's logits: penalties, biases and bans, within bounds."""

from __future__ import annotations

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition
from lorry_server.base import ServedBase
from lorry_server.services.checks import check_between, check_count, check_ids, invalid

MAX_REPETITION_PENALTY = 10.0
MAX_PENALTY = 2.0
MAX_BIAS = 100.0
MAX_BIASED_IDS = 1024
MAX_BAD_WORDS = 64
MAX_BAD_WORD_BYTES = 256
MAX_BAD_SEQUENCES = 256
MAX_BAD_SEQUENCE_IDS = 64


def min_p(requested: pb.SamplingParameters) -> float:
    check_between("min_p", requested.min_p, 0.0, 1.0)
    return requested.min_p


def repetition_penalty(requested: pb.SamplingParameters) -> float:
    if not requested.HasField("repetition_penalty"):
        return 1.0
    if not 0.0 < requested.repetition_penalty <= MAX_REPETITION_PENALTY:
        rule = f"above 0 and at most {MAX_REPETITION_PENALTY:g}"
        raise invalid("repetition_penalty", requested.repetition_penalty, rule)
    return requested.repetition_penalty


def presence_penalty(requested: pb.SamplingParameters) -> float:
    check_between("presence_penalty", requested.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    return requested.presence_penalty


def frequency_penalty(requested: pb.SamplingParameters) -> float:
    check_between("frequency_penalty", requested.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    return requested.frequency_penalty


def logit_bias(requested: pb.SamplingParameters, base: ServedBase) -> tuple[tuple[int, float], ...]:
    check_count("logit_bias", len(requested.logit_bias), MAX_BIASED_IDS, "ids")
    pairs = sorted(requested.logit_bias.items())
    check_ids([token_id for token_id, _ in pairs], base, "An id of logit_bias")
    for token_id, bias in pairs:
        check_between(f"logit_bias[{token_id}]", bias, -MAX_BIAS, MAX_BIAS)
    return tuple(pairs)


def words(requested: pb.SamplingParameters, base: ServedBase) -> list[str]:
    """The bad words, to be read by the base's tokenizer."""
    check_count("bad_words", len(requested.bad_words), MAX_BAD_WORDS, "words")
    if requested.bad_words and base.text is None:
        raise FailedPrecondition(
            f"The base {base.name} has no tokenizer, so it cannot read bad_words; use bad_token_sequences.",
            reason="NO_TOKENIZER",
            base=base.name,
        )
    for index, word in enumerate(requested.bad_words):
        size = len(word.encode())
        if size > MAX_BAD_WORD_BYTES or not word.strip():
            rule = f"1 to {MAX_BAD_WORD_BYTES} bytes long, and not of spaces alone"
            raise invalid(f"bad_words[{index}]", f"{size} bytes", rule)
    return list(requested.bad_words)


def bad_token_sequences(
    requested: pb.SamplingParameters, base: ServedBase
) -> list[tuple[int, ...]]:
    sequences = requested.bad_token_sequences
    check_count("bad_token_sequences", len(sequences), MAX_BAD_SEQUENCES, "sequences")
    for index, sequence in enumerate(sequences):
        size = len(sequence.token_ids)
        if not 1 <= size <= MAX_BAD_SEQUENCE_IDS:
            rule = f"1 to {MAX_BAD_SEQUENCE_IDS} ids long"
            raise invalid(f"bad_token_sequences[{index}]", f"{size} ids", rule)
        check_ids(sequence.token_ids, base, f"bad_token_sequences[{index}][{{index}}]")
    return [tuple(sequence.token_ids) for sequence in sequences]
