"""The same seed says the same, whatever else the request asks for, whoever shares the batch, preempted or not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from .bases import VOCAB_SIZE
from .rig import Rig

STYLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "limits": {"top_k": 40, "top_p": 0.95, "min_p": 0.02},
    "penalties": {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.7},
    "bans": {
        "bad_words": ((7,), (8, 9)),
        "logit_bias": ((3, 4.0), (5, -4.0)),
        "min_tokens": 4,
        "stop_token_ids": frozenset({1, 3}),
    },
    "constrained": {},
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.2},
}


class Alternating:
    """A constraint with a state: even and odd ids in turn, beginning with even ones."""

    def __init__(self) -> None:
        self._next = 0

    def allowed(self) -> bytes:
        return bytes([0b01010101 << self._next]) * (VOCAB_SIZE // 8)

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == self._next
        self._next = 1 - self._next


def prompt(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCAB_SIZE, (20,), generator=generator).tolist()


def test_alone_together_and_preempted(make_rig: Callable[..., Rig]) -> None:
    """Every style with every adapter, in a memory that holds about three of the eighteen."""
    asked = [(style, adapter) for style in STYLES for adapter in (None, "a", "b")]
    with make_rig(kv_blocks=24, max_batched_tokens=16) as rig:

        def submit(name: str, number: int) -> str:
            style, adapter = asked[number]
            how = {"temperature": 1.0, "seed": number, "max_tokens": 24, **STYLES[style]}
            how["constraint"] = Alternating() if style == "constrained" else None
            return rig.submit(f"{name}-{number}", prompt(number), adapter, **how)

        alone = []
        for number in range(len(asked)):
            rig.wait(submit("alone", number))
            alone.append(rig.tokens(f"alone-{number}"))
        before = rig.engine.stats().preemptions
        names = [submit("together", number) for number in range(len(asked))]
        rig.wait(*names)
        assert rig.engine.stats().preemptions > before
        assert [rig.tokens(name) for name in names] == alone
        rig.idle()
    for (style, _), said in zip(asked, alone, strict=True):
        if style == "bans":
            assert 7 not in said
            assert (8, 9) not in pairwise(said)
            assert not {1, 3} & set(said[:4])
        if style == "constrained":
            assert [token % 2 for token in said] == [0, 1] * 12
