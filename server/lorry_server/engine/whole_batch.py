"""A step's texts as tensors: one packed row of tokens, each text whole, those of one adapter side by side."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import nn

from lorry_bases.shapes import padding_place, token_types
from lorry_server.engine.lora.rows import Run
from lorry_server.engine.plan import Chunk


@dataclass(frozen=True, slots=True)
class Embedded:
    """How an encoder's family embeds a token beside its id: by where it stands, and by which of two texts it is of."""

    padding: int | None  # the token whose place is its own number, where texts begin behind it
    has_types: bool

    @classmethod
    def of(cls, trunk: nn.Module) -> Embedded:
        return cls(padding_place(trunk), token_types(trunk) > 0)

    def places(self, token_ids: Items[int]) -> Items[int]:
        """The position of each token of a text. Padding that somebody wrote into it is not counted, as in training."""
        if self.padding is None:
            return range(len(token_ids))
        counted = itertools.accumulate(token_id != self.padding for token_id in token_ids)
        return [
            self.padding + (count if token_id != self.padding else 0)
            for token_id, count in zip(token_ids, counted, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class WholeStep:
    """The inputs of one forward pass."""

    inputs: dict[str, torch.Tensor]  # by the model's names, [1, num_tokens] each
    texts: list[slice]  # where each chunk's text stands, in the plan's order
    runs: list[Run]

    @property
    def num_tokens(self) -> int:
        return self.inputs["input_ids"].shape[1]


def pack_texts(
    chunks: Items[Chunk],
    embedded: Embedded,
    device: torch.device,
    untyped: Collection[int | None] = (),
) -> WholeStep:
    """Lays the texts of a plan out. Adapters in the slots `untyped` are not told which of two texts a token is of."""
    order = sorted(range(len(chunks)), key=lambda index: _slot(chunks[index]))
    ids: list[int] = []
    places: list[int] = []
    types: list[int] = []
    texts = [slice(0)] * len(chunks)
    runs: list[Run] = []
    for index in order:
        chunk = chunks[index]
        request, start = chunk.sequence.request, len(ids)
        ids += request.prompt_token_ids
        places += embedded.places(request.prompt_token_ids)
        told = () if chunk.slot in untyped else request.token_types
        types += told or [0] * len(request.prompt_token_ids)
        texts[index] = slice(start, len(ids))
        if chunk.slot is not None:
            runs.append(Run(start, len(ids), chunk.slot))
    inputs = {"input_ids": ids, "position_ids": places}
    if embedded.has_types:
        inputs["token_type_ids"] = types
    return WholeStep(
        {name: torch.tensor([row], device=device) for name, row in inputs.items()}, texts, runs
    )


def _slot(chunk: Chunk) -> int:
    return -1 if chunk.slot is None else chunk.slot
