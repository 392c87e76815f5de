"""What a request adds to the model's logits and what it forbids, row by row.

In this order, which is vLLM's (`vllm/v1/sample/sampler.py`): bias, repetition penalty, frequency and presence penalty;
then the bans, which nothing undoes. Repetition and bad words look at prompt and output, as transformers'
`RepetitionPenaltyLogitsProcessor` and `NoBadWordsLogitsProcessor` do; frequency and presence at the output alone, as
OpenAI's API and vLLM define them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Items

import numpy as np
import torch

from lorry_registry.errors import FailedPrecondition, LorryError
from lorry_server.engine.sampling.spec import SampleSpec

BANNED = float("-inf")


def adjust(
    logits: torch.Tensor, specs: Items[SampleSpec]
) -> tuple[torch.Tensor, dict[int, LorryError]]:
    """Returns logits to choose from, [num_rows, vocab_size], and by row why there is nothing to choose.

    `logits` is float32 and stays as it is; where no row asks for anything it is returned itself.
    """
    rows = [
        row for row, spec in enumerate(specs) if spec.params.adjusts or spec.constraint is not None
    ]
    if not rows:
        return logits, {}
    logits = logits.clone()
    faults: dict[int, LorryError] = {}
    for row in rows:
        try:
            _adjust_row(logits[row], specs[row])
        except LorryError as error:
            faults[row] = error
    open_rows = (logits[rows] > BANNED).any(-1).tolist()
    for row, is_open in zip(rows, open_rows, strict=True):
        if not is_open:
            faults.setdefault(row, _nothing_left(specs[row]))
    return logits, faults


def _adjust_row(row: torch.Tensor, spec: SampleSpec) -> None:
    """`row` is [vocab_size], changed in place."""
    params = spec.params
    if params.logit_bias:
        ids, bias = zip(*params.logit_bias, strict=True)
        row[list(ids)] += torch.tensor(bias, device=row.device)
    if params.repetition_penalty != 1.0 and spec.token_ids:
        penalize_repetition(row, spec.token_ids, params.repetition_penalty)
    if params.frequency_penalty or params.presence_penalty:
        penalize_occurrence(row, spec.output, params.frequency_penalty, params.presence_penalty)
    banned = last_of_bad_words(params.bad_words, spec.token_ids)
    if len(spec.output) < params.min_tokens:
        banned |= params.stop_token_ids
    if banned:
        row[sorted(banned)] = BANNED
    if spec.constraint is not None:
        row.masked_fill_(_forbidden(spec.constraint.allowed(), row), BANNED)


def penalize_repetition(row: torch.Tensor, token_ids: Items[int], penalty: float) -> None:
    """Divides positive logits of tokens that have occurred, and multiplies negative ones.

    Keskar et al. 2019, "CTRL", 4.1, in the form of transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    seen = torch.tensor(sorted(set(token_ids)), device=row.device)
    scores = row[seen]
    row[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)


def penalize_occurrence(
    row: torch.Tensor, output: Items[int], frequency: float, presence: float
) -> None:
    """Subtracts `frequency * count + presence` from the logits of tokens that the output has."""
    if not output:
        return
    ids, counts = zip(*Counter(output).items(), strict=True)
    row[list(ids)] -= torch.tensor(counts, device=row.device) * frequency + presence


def last_of_bad_words(bad_words: Items[Items[int]], token_ids: Items[int]) -> set[int]:
    """The ids that would complete a bad word after `token_ids`: a word of one id always does."""
    banned: set[int] = set()
    for word in bad_words:
        before = len(word) - 1
        if before == 0 or list(word[:-1]) == list(token_ids[-before:]):
            banned.add(word[-1])
    return banned


def _forbidden(allowed: bytes, row: torch.Tensor) -> torch.Tensor:
    """[vocab_size] bool. Rows of the output head beyond the vocabulary stand for nothing."""
    size = row.shape[-1]
    bits = np.unpackbits(np.frombuffer(allowed, dtype=np.uint8), bitorder="little")[:size]
    forbidden = np.ones(size, dtype=np.bool_)
    forbidden[: len(bits)] = bits == 0
    return torch.from_numpy(forbidden).to(row.device)


def _nothing_left(spec: SampleSpec) -> FailedPrecondition:
    return FailedPrecondition(
        f"After {len(spec.output)} generated tokens every token is forbidden: by bad_words, min_tokens and the form "
        "that the text must have, taken together. Ask for less of them.",
        reason="NO_TOKEN_ALLOWED",
        completion_tokens=len(spec.output),
    )
