"""Where a version comes from, as a graph: what it was made from, what that was made from, and so on."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lorry_registry.digests import digest_bytes
from lorry_registry.entities import Evaluation, Version

MAX_VERSIONS = 100


class NodeKind(StrEnum):
    """What a node stands for; the names are the contract's."""

    VERSION = "VERSION"
    BASE = "BASE"
    DATASET = "DATASET"
    RECIPE = "RECIPE"
    CODE = "CODE"
    EVALUATION = "EVALUATION"


@dataclass(frozen=True, slots=True)
class Node:
    """A thing in a lineage; a version that is not here, or not to be seen, has no `version`."""

    id: str
    kind: NodeKind
    label: str
    digest: str = ""
    version: str = ""  # resource name
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edge:
    """`source` was made from `target`."""

    source: str
    target: str
    relation: str  # base, parent, recipe, code, evaluation, or a data set's split


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """The version that was asked for is the first node."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    truncated: bool  # more is known than is told


def lineage_graph(
    version: Version,
    find: Callable[[str, Version], Version | None],
    evaluations: Callable[[Version], Iterable[Evaluation]],
) -> LineageGraph:
    """The graph of a version, nearest first.

    Args:
        find: the version with a digest, as seen from the one that names it as a parent.
        evaluations: those of a version.
    """
    nodes: dict[str, Node] = {}
    edges: dict[Edge, None] = {}
    waiting: deque[Version] = deque([version])
    known = {version.digest}
    num_versions = 0
    while waiting and num_versions < MAX_VERSIONS:
        current = waiting.popleft()
        num_versions += 1
        node = _of_version(current)
        nodes[node.id] = node
        for other, relation in _made_from(current):
            nodes.setdefault(other.id, other)
            edges[Edge(node.id, other.id, relation)] = None
        for evaluation in evaluations(current):
            found = _of_evaluation(current, evaluation)
            nodes[found.id] = found
            edges[Edge(found.id, node.id, "evaluation")] = None
            data = evaluation.dataset
            if data.name or data.digest:
                measured_on = _of_dataset(data.name, data.digest)
                nodes.setdefault(measured_on.id, measured_on)
                edges[Edge(found.id, measured_on.id, data.split or "data")] = None
        for digest in current.lineage.parents:
            parent = Node(f"version:{digest}", NodeKind.VERSION, digest, digest)
            nodes.setdefault(parent.id, parent)
            edges[Edge(node.id, parent.id, "parent")] = None
            if digest not in known:
                known.add(digest)
                here = find(digest, current)
                if here is not None:
                    waiting.append(here)
    return LineageGraph(tuple(nodes.values()), tuple(edges), truncated=bool(waiting))


def _made_from(version: Version) -> Iterable[tuple[Node, str]]:
    lineage = version.lineage
    if lineage.base_fingerprint:
        label = lineage.base_name or lineage.base_fingerprint
        base = Node(
            f"base:{lineage.base_fingerprint}", NodeKind.BASE, label, lineage.base_fingerprint
        )
        yield base, "base"
    for dataset in lineage.datasets:
        yield _of_dataset(dataset.name, dataset.digest), dataset.split or "data"
    if lineage.recipe:
        digest = digest_bytes(lineage.recipe.encode())
        yield Node(f"recipe:{digest}", NodeKind.RECIPE, "recipe", digest), "recipe"
    if lineage.code_revision:
        yield (
            Node(f"code:{lineage.code_revision}", NodeKind.CODE, lineage.code_revision),
            "code",
        )


def _of_version(version: Version) -> Node:
    return Node(
        f"version:{version.digest}",
        NodeKind.VERSION,
        f"{version.key}:{version.number}",
        version.digest,
        f"{version.key.resource_name}/versions/{version.number}",
        version.lineage.metrics,
    )


def _of_evaluation(version: Version, evaluation: Evaluation) -> Node:
    return Node(
        f"evaluation:{version.digest}/{evaluation.number}",
        NodeKind.EVALUATION,
        evaluation.title,
        metrics=evaluation.metrics,
    )


def _of_dataset(name: str, digest: str) -> Node:
    return Node(f"dataset:{digest or name}", NodeKind.DATASET, name or digest, digest)
