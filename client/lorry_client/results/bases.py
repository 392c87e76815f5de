"""Bases: what adapters are trained on and served with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from lorry_client.results.times import moment

if TYPE_CHECKING:
    from lorry.registry.v1 import resources_pb2 as pb


@dataclass(frozen=True, slots=True)
class Base:
    """A base that some server has announced to the registry.

    Attributes:
        display_name: the name by which it was loaded.
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
