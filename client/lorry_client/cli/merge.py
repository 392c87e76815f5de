"""`lorry merge`: an adapter folded into copies of the weights, for as long as an operator wants it so."""

from __future__ import annotations

from typing import Annotated

import typer

from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session


def register(app: typer.Typer) -> None:
    app.command("merge")(merge)


def merge(
    ctx: typer.Context,
    reference: Annotated[
        str | None,
        typer.Argument(metavar="REF", help="What to merge; several as one: a*0.7+b*0.3."),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Drop what is merged.")] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into the weights, or drop what is merged; everybody else runs on."""
    shared = session(ctx, server, as_json)
    if off == (reference is not None):
        raise typer.BadParameter("say what to merge, or --off.")
    with shared.connect() as client:
        merged = None if reference is None else client.merge(reference)
        if off:
            client.unmerge()
    if shared.as_json:
        output.print_json({"merge": merged})
    elif merged is None:
        output.note("nothing is merged")
    else:
        output.print_data(merged.digest)
        output.note(f"merged in {merged.merge_seconds:.1f} s: {output.size(merged.size_bytes)}")
