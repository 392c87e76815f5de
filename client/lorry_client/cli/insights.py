"""`lorry versions card`, `lineage` and `compare`: what is told of versions from what is kept."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session

if TYPE_CHECKING:
    from lorry_client.results import Comparison, LineageGraph

ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REF", help="name, name@alias, name:3 or name@sha256:….")
]


class Format(StrEnum):
    """How a graph is printed."""

    text = "text"
    dot = "dot"
    json = "json"


def register(group: typer.Typer) -> None:
    """Adds the commands to `lorry versions`."""
    for command in (card, lineage, compare):
        group.command(command.__name__)(command)


def card(
    ctx: typer.Context,
    reference: ReferenceArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a version's model card: Markdown, made of its lineage and its evaluations."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        text = client.card(reference)
    if shared.as_json:
        output.print_json({"card": text})
    else:
        output.print_data(text.rstrip("\n"))


def lineage(
    ctx: typer.Context,
    reference: ReferenceArgument,
    format_: Annotated[Format, typer.Option("--format", help="dot is for Graphviz.")] = Format.text,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print where a version comes from: base, parents, data, recipe, code and evaluations."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        graph = client.lineage(reference)
    if shared.as_json or format_ is Format.json:
        output.print_json(graph)
    elif format_ is Format.dot:
        _print_dot(graph)
    else:
        _print_tree(graph)


def compare(
    ctx: typer.Context,
    first: ReferenceArgument,
    second: ReferenceArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: configuration, lineage, metrics, and what they do to each module."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        found = client.compare(first, second)
    if shared.as_json:
        output.print_json(found)
    else:
        _print_comparison(found)


def _print_tree(graph: LineageGraph) -> None:
    """Each node once; where it comes up again, by its name alone."""
    nodes = {node.id: node for node in graph.nodes}
    below: dict[str, list[tuple[str, str]]] = {}
    for edge in graph.edges:
        below.setdefault(edge.source, []).append((edge.relation, edge.target))
    evaluated: dict[str, list[str]] = {}
    for edge in graph.edges:
        if edge.relation == "evaluation":
            evaluated.setdefault(edge.target, []).append(edge.source)
    seen: set[str] = set()

    def show(node_id: str, relation: str, depth: int) -> None:
        node = nodes[node_id]
        figures = " ".join(f"{name}={value:.4g}" for name, value in sorted(node.metrics.items()))
        told = f"{relation}: " if relation else ""
        digest = output.short_digest(node.digest) if node.digest else ""
        label = digest if node.label == node.digest else f"{node.label}  {digest}".rstrip()
        output.print_data(f"{'  ' * depth}{told}{label}  {figures}".rstrip())
        if node_id in seen:
            return
        seen.add(node_id)
        for next_relation, target in below.get(node_id, []):
            if next_relation != "evaluation":
                show(target, next_relation, depth + 1)
        for source in evaluated.get(node_id, []):
            show(source, "evaluation", depth + 1)

    show(graph.nodes[0].id, "", 0)
    if graph.truncated:
        output.note("there is more than is shown")


def _print_dot(graph: LineageGraph) -> None:
    shapes = {"version": "box", "base": "box3d", "dataset": "cylinder", "evaluation": "note"}
    output.print_data("digraph lineage {\n  rankdir=LR;")
    for node in graph.nodes:
        shape = shapes.get(node.kind, "ellipse")
        label = f"{node.kind}\n{node.label}"
        output.print_data(f"  {json.dumps(node.id)} [label={json.dumps(label)}, shape={shape}];")
    for edge in graph.edges:
        output.print_data(
            f"  {json.dumps(edge.source)} -> {json.dumps(edge.target)} [label={json.dumps(edge.relation)}];"
        )
    output.print_data("}")


def _print_comparison(found: Comparison) -> None:
    same = ", the same bytes" if found.identical else ""
    output.print_data(f"{found.first}  and  {found.second}{same}")
    if found.values:
        output.print_data("")
        output.print_table(
            ["ENTRY", "FIRST", "SECOND"],
            [[one.path, one.first, one.second] for one in found.values],
        )
    if found.metrics:
        output.print_data("")
        output.print_table(
            ["METRIC", "FIRST", "SECOND", "CHANGE"],
            [
                [one.name, _number(one.first), _number(one.second), _change(one.first, one.second)]
                for one in found.metrics
            ],
        )
    if found.modules:
        output.print_data("")
        output.print_table(
            ["MODULE", "FACTORS", "EFFECT", "OF SECOND", "DIFFERENCE"],
            [
                [
                    one.module,
                    " ".join(
                        f"{factor.name.removesuffix('.weight')}={_number(factor.first_norm) or '-'}"
                        f"/{_number(factor.second_norm) or '-'}"
                        for factor in one.factors
                    ),
                    _number(one.first_effect),
                    _number(one.second_effect),
                    _number(one.effect_difference),
                ]
                for one in found.modules
            ],
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _change(first: float | None, second: float | None) -> str:
    return "" if first is None or second is None else f"{second - first:+.4g}"
