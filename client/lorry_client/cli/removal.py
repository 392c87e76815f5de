"""`lorry adapters rm`, `undelete` and `purge`: of an adapter, or of one version of it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session

WhatArgument = Annotated[
    str, typer.Argument(metavar="NAME[:N]", help="An adapter, or one version of it.")
]


def register(group: typer.Typer) -> None:
    group.command("rm")(rm)
    group.command("undelete")(undelete)
    group.command("purge")(purge)


def rm(
    ctx: typer.Context,
    what: WhatArgument,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", help="Do not ask, and delete a version though an alias points at it."
        ),
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete an adapter with its versions and aliases, or one version; `undelete` brings it back for 30 days."""
    from lorry_client import names

    shared = session(ctx, server, as_json)
    name, number = names.numbered(what)
    with shared.connect() as client:
        if number is not None:
            version = client.delete_version(name, number, force=force)
            deleted, until = f"{version.adapter}:{number}", version.purge_time
        else:
            adapter = client.adapters.get(name)
            if adapter.latest_version and not force and sys.stdin.isatty() and sys.stderr.isatty():
                question = f"Delete {adapter.name} with all of its versions and aliases?"
                typer.confirm(question, abort=True, err=True)
            gone = client.adapters.delete(name, force=True, etag=adapter.etag)
            deleted, until = gone.name, gone.purge_time if gone.latest_version else None
    if shared.as_json:
        output.print_json({"deleted": deleted, "purge_time": until})
    elif until is None:
        output.note(f"deleted {deleted}")
    else:
        output.note(
            f"deleted {deleted}; `lorry adapters undelete {deleted}` brings it back until {output.time(until)}"
        )


def undelete(
    ctx: typer.Context,
    what: WhatArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring back what was deleted, as it was."""
    from lorry_client import names

    shared = session(ctx, server, as_json)
    name, number = names.numbered(what)
    with shared.connect() as client:
        if number is not None:
            back = f"{client.undelete_version(name, number).adapter}:{number}"
        else:
            back = client.adapters.undelete(name).name
    if shared.as_json:
        output.print_json({"undeleted": back})
    else:
        output.note(f"{back} is back")


def purge(
    ctx: typer.Context,
    what: WhatArgument,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Do not ask, even on a terminal.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what was deleted for good, now; asks first on a terminal."""
    from lorry_client import names

    shared = session(ctx, server, as_json)
    name, number = names.numbered(what)
    if not force and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm(f"Remove {what} for good?", abort=True, err=True)
    with shared.connect() as client:
        if number is not None:
            client.purge_version(name, number)
        else:
            client.adapters.purge(name)
    if shared.as_json:
        output.print_json({"purged": what})
    else:
        output.note(f"{what} is gone for good")
