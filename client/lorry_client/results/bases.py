"""Bases: what adapters are trained on and served with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from lorry_client.results.times import moment

if TYPE_CHECKING:
    from lorry.registry.v1 import resources_pb2 as pb


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a base that is not quantized.

    Attributes:
        shape: 0 first where it is a head's, which each adapter brings with outputs of its own.
        tied_to: the path of the parameter that it shares its memory with.
    """

    path: str
    shape: tuple[int, ...]
    tied_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBase:
    """What a registry is told of a base, so that it takes adapters for it.

    Attributes:
        quantization: `nf4`, `nf4-double` or `none`.
        modules: every linear layer, by its dotted path: input and output features.
        parameters: what an adapter may change or bring besides.
        max_rank: the largest rank that its server takes; 0 where none serves it.
        context_length: the longest sequence, in tokens.
    """

    fingerprint: str
    display_name: str
    architecture: str
    quantization: str
    modules: Mapping[str, tuple[int, int]]
    parameters: tuple[Parameter, ...]
    max_rank: int = 0
    context_length: int = 0


@dataclass(frozen=True, slots=True)
class Base:
    """A base that the registry knows.

    Attributes:
        display_name: the name by which it was loaded or announced.
        quantization: `nf4`, `nf4-double` or `none`.
        max_rank: the largest rank that its servers take; 0 where they did not say.
        context_length: the longest sequence, in tokens.
    """

    fingerprint: str
    display_name: str
    architecture: str
    quantization: str
    max_rank: int
    context_length: int
    create_time: datetime | None

    @classmethod
    def read(cls, message: pb.Base) -> Base:
        return cls(
            fingerprint=message.fingerprint,
            display_name=message.display_name,
            architecture=message.architecture,
            quantization=message.quantization,
            max_rank=message.max_rank,
            context_length=message.context_length,
            create_time=moment(message, "create_time"),
        )
