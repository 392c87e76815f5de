"""What a step brought for each of its chunks, out of its logits and final hidden states."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items

import torch

from lorry_registry.errors import FailedPrecondition, LorryError
from lorry_server.engine.plan import Chunk, Sampled
from lorry_server.engine.request import TokenLogprobs
from lorry_server.engine.sampling.logprobs import logprobs_of
from lorry_server.engine.sampling.sampler import sample
from lorry_server.engine.sampling.spec import SampleSpec
from lorry_server.engine.sequence import Sequence

# What a chunk's adapter says of final hidden states [tokens, hidden] with its own head: [labels], or [tokens, labels]
# where it is asked of each. None: it has no such head.
Labels = Callable[[Chunk, torch.Tensor], torch.Tensor | None]


def results(
    chunks: Items[Chunk],
    logits: torch.Tensor,
    states: Mapping[int, torch.Tensor],
    labels: Labels,
) -> list[Sampled | None]:
    """One for each chunk that yields something, in their order; None where the model gave no numbers.

    Args:
        logits: [num_logits, vocab_size], after the tokens at each chunk's `logits_at`, one chunk after the other.
        states: by index of a chunk that pools, the final hidden states [tokens, hidden] at its `pooled_at`.
        labels: asked for each chunk that classifies.
    """
    sampling = [index for index, chunk in enumerate(chunks) if chunk.samples]
    specs = [_spec(chunks[index].sequence) for index in sampling]
    if len(specs) == len(logits) == len(chunks):  # the usual step: everybody wants the next token
        return sample(logits, specs)
    ends = list(itertools.accumulate(len(chunk.logits_at) for chunk in chunks))
    last_rows = [ends[index] - 1 for index in sampling]
    tokens = dict(zip(sampling, sample(logits[last_rows], specs), strict=True)) if specs else {}
    brought: list[Sampled | None] = []
    for index, chunk in enumerate(chunks):
        if chunk.yields:
            rows = logits[ends[index] - len(chunk.logits_at) : ends[index]]
            scores = _scores(chunk, rows)
            pooled, error = _pooled(chunk, states.get(index), labels)
            numbers = [*(pooled or ()), *(score.chosen for score in scores)]
            token = tokens.get(index, Sampled(error=error))
            if token is None or any(map(math.isnan, numbers)) or any(map(math.isinf, pooled or ())):
                brought.append(None)
            else:
                brought.append(Sampled(token.token_id, token.logprobs, scores, pooled, token.error))
    return brought


def _pooled(
    chunk: Chunk, states: torch.Tensor | None, labels: Labels
) -> tuple[list[float] | None, LorryError | None]:
    """The sum of a chunk's states, or what its adapter's head says of them; and why there is neither."""
    if states is None:
        return None, None
    if not chunk.sequence.request.classifies:
        return states.float().sum(0).tolist(), None
    told = labels(chunk, states)
    if told is None:
        return None, _no_head(chunk.sequence)
    return told.flatten().tolist(), None


def _no_head(sequence: Sequence) -> FailedPrecondition:
    needed = (
        "no head that labels tokens; use one that was trained to, with PEFT's task type TOKEN_CLS, or QUESTION_ANS"
        if sequence.request.of_each
        else "no head that classifies (`score` or `classifier` among its modules_to_save); use one that was trained to "
        "classify, with PEFT's task type SEQ_CLS"
    )
    return FailedPrecondition(
        f"Adapter {sequence.adapter} has {needed}.",
        reason="NO_HEAD",
        adapter=sequence.adapter or "",
    )


def _scores(chunk: Chunk, rows: torch.Tensor) -> tuple[TokenLogprobs, ...]:
    """Those of the prompt's tokens that come after the chunk's `logits_at`."""
    sequence, scores = chunk.sequence, chunk.sequence.request.scores
    at = chunk.logits_at
    count = len(at) - chunk.samples
    if scores is None or count == 0:
        return ()
    token_ids = sequence.token_ids[at.start + 1 : at.start + 1 + count]
    return tuple(logprobs_of(rows[:count], token_ids, [scores.top] * count))


def _spec(sequence: Sequence) -> SampleSpec:
    return SampleSpec(
        sequence.request.sampling,
        len(sequence.token_ids),
        sequence.token_ids,
        sequence.num_prompt_tokens,
        sequence.request.constraint,
    )
