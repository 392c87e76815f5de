"""`lorry adapters`: what the registry holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli import exchange, output, pairs, removal
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_client.cli.versions import print_lineage, print_versions

if TYPE_CHECKING:
    from lorry_client.results import Adapter, Alias

ChangesArgument = Annotated[
    list[str], typer.Argument(metavar="KEY=VALUE…", help="KEY=VALUE to set, KEY- to take away.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="List, show and delete adapters.", no_args_is_help=True)
    group.callback()(_shared_options)
    group.command("ls")(ls)
    group.command("show")(show)
    removal.register(group)
    group.command("label")(label)
    group.command("annotate")(annotate)
    group.command("copy")(exchange.copy)
    app.add_typer(group, name="adapters")


def _shared_options(
    ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False
) -> None:
    session(ctx, server, as_json)


def ls(
    ctx: typer.Context,
    namespace: Annotated[
        str | None, typer.Option(metavar="NS", help="Only this namespace.")
    ] = None,
    filter_: Annotated[
        str,
        typer.Option("--filter", metavar="F", help='Such as: name = "intent*"', show_default=False),
    ] = "",
    order_by: Annotated[
        str,
        typer.Option(metavar="FIELD", help="Such as: 'update_time desc'.", show_default=False),
    ] = "",
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Those that are deleted as well.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List adapters."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        adapters = client.adapters.list(
            namespace, filter=filter_, order_by=order_by, show_deleted=deleted
        )
    if shared.as_json:
        output.print_json({"adapters": adapters})
        return
    output.print_table(
        ["NAME", "VERSION", "CHANGED", "LABELS", "DESCRIPTION"],
        [
            [
                adapter.name,
                str(adapter.latest_version or ""),
                output.time(adapter.update_time),
                pairs.shown(adapter.labels),
                adapter.description,
            ]
            for adapter in adapters
        ],
    )


def show(
    ctx: typer.Context,
    name: NameArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an adapter's versions, aliases and lineage."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        adapter = client.adapters.get(name)
        versions = client.versions(name)
        aliases = client.aliases(name)
    if shared.as_json:
        output.print_json(
            {
                **asdict(adapter),
                "versions": [
                    {**asdict(version), "reference": version.reference} for version in versions
                ],
                "aliases": aliases,
            }
        )
        return
    _print_head(adapter, aliases)
    if versions:
        output.print_data("")
        print_versions(versions)
        print_lineage(versions[0])


def label(
    ctx: typer.Context,
    name: NameArgument,
    changes: ChangesArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set and take away labels: KEY=VALUE, KEY-."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        adapter = client.adapters.get(name)
        labels = pairs.changed(adapter.labels, changes)
        adapter = client.adapters.update(name, labels=labels, etag=adapter.etag)
    _said(adapter, pairs.shown(adapter.labels), shared.as_json)


def annotate(
    ctx: typer.Context,
    name: NameArgument,
    changes: ChangesArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set and take away annotations: KEY=VALUE, KEY-."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        adapter = client.adapters.get(name)
        annotations = pairs.changed(adapter.annotations, changes)
        adapter = client.adapters.update(name, annotations=annotations, etag=adapter.etag)
    _said(adapter, pairs.shown(adapter.annotations), shared.as_json)


def _said(adapter: Adapter, text: str, as_json: bool) -> None:
    if as_json:
        output.print_json(adapter)
    else:
        output.print_data(f"{adapter.name}  {text}".rstrip())


def _print_head(adapter: Adapter, aliases: list[Alias]) -> None:
    output.print_data(adapter.name)
    lines = [
        ("about", adapter.description),
        ("labels", pairs.shown(adapter.labels)),
        ("notes", pairs.shown(adapter.annotations)),
        ("changed", output.time(adapter.update_time)),
    ]
    for alias in aliases:
        targets = ", ".join(
            f"version {target.version}  {output.short_digest(target.digest)}"
            + ("" if len(alias.targets) == 1 else f"  weight {target.weight}")
            for target in alias.targets
        )
        lines.append((f"@{alias.name}", targets))
    output.print_pairs(lines)
