"""What is told of versions from what is kept: where they come from, and how two of them differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorry_client import names

if TYPE_CHECKING:
    from lorry.registry.v1 import insight_pb2 as pb

# By the number of pb.LineageNodeKind.
_KINDS = {1: "version", 2: "base", 3: "dataset", 4: "recipe", 5: "code", 6: "evaluation"}


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A thing in a lineage.

    Attributes:
        kind: `version`, `base`, `dataset`, `recipe`, `code` or `evaluation`.
        version: `namespace/name:3` of a version that is here; None of everything else.
    """

    id: str
    kind: str
    label: str
    digest: str | None
    version: str | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """`source` was made from `target`."""

    source: str
    target: str
    relation: str


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """Where a version comes from; it is the first node itself. `truncated`: more is known than is told."""

    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]
    truncated: bool

    @classmethod
    def read(cls, message: pb.LineageGraph) -> LineageGraph:
        return cls(
            tuple(
                LineageNode(
                    node.id,
                    _KINDS.get(node.kind, str(node.kind)),
                    node.label,
                    node.digest or None,
                    _short(node.version) if node.version else None,
                    dict(node.metrics),
                )
                for node in message.nodes
            ),
            tuple(LineageEdge(edge.source, edge.target, edge.relation) for edge in message.edges),
            message.truncated,
        )


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """An entry that differs, as JSON; empty where a version does not have it."""

    path: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A figure of either version."""

    name: str
    first: float | None
    second: float | None


@dataclass(frozen=True, slots=True)
class FactorComparison:
    """A tensor of either version, by Frobenius norms."""

    name: str
    first_norm: float | None
    second_norm: float | None


@dataclass(frozen=True, slots=True)
class ModuleComparison:
    """What two versions do to a module.

    Attributes:
        first_effect: of low-rank factors, the Frobenius norm of what they add to the weight, of the first version.
        second_effect: of the second.
        effect_difference: of the difference of the two.
    """

    module: str
    factors: tuple[FactorComparison, ...]
    first_effect: float | None
    second_effect: float | None
    effect_difference: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two versions, `namespace/name:3` each, differ."""

    first: str
    second: str
    identical: bool
    values: tuple[ValueDifference, ...]
    metrics: tuple[MetricComparison, ...]
    modules: tuple[ModuleComparison, ...]

    @classmethod
    def read(cls, message: pb.Comparison) -> Comparison:
        return cls(
            _short(message.first),
            _short(message.second),
            message.identical,
            tuple(ValueDifference(one.path, one.first, one.second) for one in message.values),
            tuple(
                MetricComparison(one.name, _optional(one, "first"), _optional(one, "second"))
                for one in message.metrics
            ),
            tuple(_module(one) for one in message.modules),
        )


def _module(message: pb.ModuleComparison) -> ModuleComparison:
    return ModuleComparison(
        message.module,
        tuple(
            FactorComparison(one.name, _optional(one, "first_norm"), _optional(one, "second_norm"))
            for one in message.factors
        ),
        _optional(message, "first_effect"),
        _optional(message, "second_effect"),
        _optional(message, "effect_difference"),
    )


def _optional(message: Any, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


def _short(version: str) -> str:
    return f"{names.short(version)}:{version.rpartition('/')[2]}"
