"""`lorry compose`: several adapters become a version of their own."""

from __future__ import annotations

import tempfile
from typing import Annotated

import typer

from lorry_client.cli.generate import composed
from lorry_client.cli.output import note, print_data, print_json
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_client.compositions import Composition, is_expression, parse


def register(app: typer.Typer) -> None:
    app.command("compose")(compose)


def compose(
    ctx: typer.Context,
    expression: Annotated[
        str, typer.Argument(metavar="COMPOSITION", help="Adapters with weights: a*0.7+b*0.3.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name of the new one.")],
    method: Annotated[
        str | None,
        typer.Option(metavar="M", help="sum (exact), svd, ties, …", show_default=False),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(metavar="D", help="The share that ties, dare_… and magnitude_prune keep."),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(metavar="A", help="Point this alias at the version.")
    ] = None,
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="What is new in this version.", show_default=False)
    ] = "",
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where to publish, if the server keeps no registry itself."
        ),
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute a composition and publish it; prints the reference with its digest."""
    shared = session(ctx, server, as_json)
    target = composed(expression, method, density)
    if not isinstance(target, Composition):
        if not is_expression(expression):
            raise typer.BadParameter("name several adapters with weights: a*0.7+b*0.3.")
        target = parse(expression)
    with tempfile.TemporaryDirectory(prefix="lorry-compose-") as folder:
        with shared.connect() as client:
            client.compose(target, folder)
        shared.server = registry or shared.server
        with shared.connect() as client:
            pushed = client.push(folder, name, alias, description=description)
    version = pushed.version
    if shared.as_json:
        print_json(
            {
                "reference": pushed.reference,
                "adapter": version.adapter,
                "version": version.number,
                "digest": version.digest,
                "alias": pushed.alias.name if pushed.alias else None,
                "parents": version.lineage.parents if version.lineage else (),
            }
        )
        return
    print_data(pushed.reference)
    note(f"version {version.number}, of {len(target.terms)} adapters")
