"""`lorry aliases`: mutable names for versions."""

from __future__ import annotations

from typing import Annotated

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="Such as production.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Point aliases at versions.", no_args_is_help=True)
    group.callback()(_shared_options)
    group.command("set")(set_)
    group.command("rm")(rm)
    app.add_typer(group, name="aliases")


def _shared_options(
    ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False
) -> None:
    session(ctx, server, as_json)


def set_(
    ctx: typer.Context,
    name: NameArgument,
    alias: AliasArgument,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="A version's number, its digest, @alias, or a reference."
        ),
    ],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Point an alias at a version; prints the reference with the version's digest."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        moved = client.set_alias(name, alias, reference)
    if shared.as_json:
        output.print_json(moved)
        return
    for target in moved.targets:
        output.print_data(f"{moved.adapter}@{target.digest}")
        output.note(f"{moved.adapter}@{moved.name} is version {target.version}")


def rm(
    ctx: typer.Context,
    name: NameArgument,
    alias: AliasArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete an alias; the versions stay."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client:
        client.delete_alias(name, alias)
    if shared.as_json:
        output.print_json({"deleted": f"{name}@{alias}"})
    else:
        output.note(f"deleted {name}@{alias}")
