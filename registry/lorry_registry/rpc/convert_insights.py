"""Graphs and comparisons to protos."""

from lorry.registry.v1 import insight_pb2 as pb
from lorry_registry.comparison import Comparison, ModuleComparison
from lorry_registry.entities import Version
from lorry_registry.lineage_graph import LineageGraph


def graph_to_proto(graph: LineageGraph) -> pb.LineageGraph:
    return pb.LineageGraph(
        nodes=[
            pb.LineageNode(
                id=node.id,
                kind=f"LINEAGE_NODE_KIND_{node.kind.value}",
                label=node.label,
                digest=node.digest,
                version=node.version,
                metrics=dict(node.metrics),
            )
            for node in graph.nodes
        ],
        edges=[
            pb.LineageEdge(source=edge.source, target=edge.target, relation=edge.relation)
            for edge in graph.edges
        ],
        truncated=graph.truncated,
    )


def comparison_to_proto(comparison: Comparison) -> pb.Comparison:
    return pb.Comparison(
        first=_name(comparison.first),
        second=_name(comparison.second),
        identical=comparison.first.digest == comparison.second.digest,
        values=[
            pb.ValueComparison(path=value.path, first=value.first, second=value.second)
            for value in comparison.values
        ],
        metrics=[
            pb.MetricComparison(name=name, first=first, second=second)
            for name, (first, second) in comparison.metrics.items()
        ],
        modules=[_module(name, module) for name, module in comparison.modules.items()],
    )


def _module(name: str, module: ModuleComparison) -> pb.ModuleComparison:
    return pb.ModuleComparison(
        module=name,
        factors=[
            pb.FactorComparison(name=factor, first_norm=first, second_norm=second)
            for factor, (first, second) in module.factors.items()
        ],
        first_effect=module.effects[0],
        second_effect=module.effects[1],
        effect_difference=module.effect_difference,
    )


def _name(version: Version) -> str:
    return f"{version.key.resource_name}/versions/{version.number}"
