"""What an adapter does: the change that it makes to what the base says of a short prompt, measured when it is loaded.

An adapter that loads must act. The same tokens run twice, through the bare base and through the adapter's slot, laid
out alike; so an adapter that does nothing anywhere changes not a single bit, and a change of exactly zero says so. It
runs between two steps, on KV blocks that are kept for it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters.weights import AdapterWeights
from lorry_server.engine.plan import Chunk
from lorry_server.engine.request import GenerationRequest
from lorry_server.engine.sequence import NO_VIRTUAL_PLACES, Sequence, VirtualPlaces

PROMPT_TOKENS = 8
_VIRTUAL_TOKENS = 8  # as many of an adapter's own as take part
PLACES = PROMPT_TOKENS + _VIRTUAL_TOKENS  # of the KV memory that is kept


@dataclass(frozen=True, slots=True)
class Probe:
    """What must be known of an adapter to see whether it acts."""

    must_act: bool  # it is refused where it does nothing
    telling: tuple[int, ...]  # tokens whose embeddings it changes: others' may stay as they are
    virtual: VirtualPlaces


def probe_of(weights: AdapterWeights, virtual: VirtualPlaces, *, must_act: bool) -> Probe:
    """`must_act` is of the version; one that says of itself that it may do nothing is let off."""
    telling: list[int] = []
    for update in weights.embeddings.values():
        if update.rows is not None:
            telling += update.rows.indices[:PROMPT_TOKENS].tolist()
        elif update.weight is not None:
            telling += update.weight.any(1).nonzero()[:PROMPT_TOKENS, 0].tolist()
    few = VirtualPlaces(min(virtual.count, _VIRTUAL_TOKENS), virtual.injected)
    may_be_nil = weights.allow_no_effect
    return Probe(must_act and not may_be_nil, tuple(telling[: PROMPT_TOKENS // 2]), few)


class EffectMeter:
    """Measures on the engine's thread, with the runner's own forward pass."""

    def __init__(
        self,
        asking: Callable[[str, tuple[int, ...]], GenerationRequest],
        says: Callable[[Items[Chunk]], Items[torch.Tensor] | torch.Tensor],
        vocab_size: int,
        blocks: range = range(0),
    ) -> None:
        """`asking` and `says` are those of `selfcheck.verify`.

        `blocks` are KV blocks of at least `PLACES` places that nobody else has, where the base keeps any.
        """
        self._asking = asking
        self._says = says
        self._blocks = blocks
        spread = torch.linspace(0, vocab_size - 1, PROMPT_TOKENS + 2)[1:-1]
        self._prompt = tuple(int(token) for token in spread.tolist())
        self._of_base: torch.Tensor | None = None

    def measure(self, slot: int, probe: Probe) -> float:
        """The largest change of a number; infinity where one is not finite."""
        kept = PROMPT_TOKENS - len(probe.telling)
        prompt = (*self._prompt[:kept], *probe.telling)
        without = self._base(prompt)
        change = (self._run(prompt, slot, probe.virtual) - without).abs().max().item()
        return change if change == change else float("inf")

    def _base(self, prompt: tuple[int, ...]) -> torch.Tensor:
        if prompt != self._prompt:
            return self._run(prompt, None, NO_VIRTUAL_PLACES)
        if self._of_base is None:
            self._of_base = self._run(prompt, None, NO_VIRTUAL_PLACES)
        return self._of_base

    def _run(
        self, prompt: tuple[int, ...], slot: int | None, virtual: VirtualPlaces
    ) -> torch.Tensor:
        sequence = Sequence(self._asking("", prompt), 0.0, list(prompt), virtual=virtual)
        sequence.block_table = list(self._blocks)
        injected = sequence.num_uninjected_tokens
        chunk = Chunk(sequence, sequence.num_tokens - injected, slot, injected)
        return self._says([chunk])[0].float()


def check_effect(digest: str, change: float, probe: Probe) -> None:
    """Raises FailedPrecondition `ADAPTER_HAS_NO_EFFECT`, `ADAPTER_NOT_FINITE`."""
    if change == float("inf"):
        raise FailedPrecondition(
            f"With adapter {digest} the base says numbers that are not finite: its weights are too large to act. "
            "Train it again with a lower learning rate.",
            reason="ADAPTER_NOT_FINITE",
            digest=digest,
        )
    if change == 0 and probe.must_act:
        raise FailedPrecondition(
            f"Adapter {digest} changes nothing: what the base says of a short prompt is the same with it. Publish "
            'what was trained, or say that it is meant to be so with "allow_no_effect": true in adapter_config.json.',
            reason="ADAPTER_HAS_NO_EFFECT",
            digest=digest,
        )
