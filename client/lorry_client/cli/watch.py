"""`lorry watch`: what happens in the catalogue, line by line."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session

if TYPE_CHECKING:
    from lorry_client.results import Event


def register(app: typer.Typer) -> None:
    app.command("watch")(watch)


def watch(
    ctx: typer.Context,
    namespace: Annotated[
        str | None, typer.Option(metavar="NS", help="Only this namespace.")
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="Go on after this token; without, from now on.",
            show_default=False,
        ),
    ] = "",
    filter_: Annotated[
        str,
        typer.Option(
            "--filter", metavar="F", help="Such as: kind = ALIAS_MOVED", show_default=False
        ),
    ] = "",
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after this long.")
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print changes of the catalogue as they happen; with --json one object a line, with the token to go on from."""
    shared = session(ctx, server, as_json)
    with (
        shared.connect() as client,
        closing(
            client.watch(namespace, resume_token=since, filter=filter_, timeout=timeout)
        ) as messages,
    ):
        for message in messages:
            if shared.as_json:
                output.print_json(message)
            for event in message.events if not shared.as_json else ():
                output.print_data(_line(event))
            sys.stdout.flush()


def _line(event: Event) -> str:
    about = event.adapter
    if event.alias is not None:
        about += f"@{event.alias}"
    elif event.version is not None:
        about += f":{event.version}"
    if event.targets:
        about += " = " + ",".join(
            f"{target.version}:{target.weight}" if len(event.targets) > 1 else str(target.version)
            for target in event.targets
        )
    why = f"  {event.why}" if event.why else ""
    return f"{output.time(event.time)}  {event.kind}  {about}  {event.principal}{why}"
