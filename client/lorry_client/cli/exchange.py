"""`lorry import`, `lorry export` and `lorry adapters copy`: versions from and to other places."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorry_client._login import Login
from lorry_client.cli import output
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_client.cli.transfer import progress_shown

_PLACES = "DIR, oci:DIR[:TAG], lorry://HOST:PORT/NAME"

OtherTokenOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The token for the other registry; it is never shown the usual one."
    ),
]
OtherCaOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TLS to the other registry: whose certificate it shows."),
]


def register(app: typer.Typer) -> None:
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="FROM", help=f"{_PLACES}, or hf:ORG/REPO[@REVISION].")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name of the adapter.")],
    alias: Annotated[
        str | None, typer.Option(metavar="A", help="Point this alias at the version.")
    ] = None,
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="What is new in this version.", show_default=False)
    ] = "",
    base: Annotated[
        str | None,
        typer.Option(
            metavar="FINGERPRINT", help="The base it was trained on, where it fits several."
        ),
    ] = None,
    other_token_file: OtherTokenOption = None,
    other_tls_ca: OtherCaOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish what another place holds; prints the reference with its digest."""
    from lorry_client.exchange import import_version

    shared = session(ctx, server, as_json)
    with shared.connect() as client, progress_shown() as progress:
        pushed = import_version(
            client,
            source,
            name,
            alias,
            base=base,
            description=description,
            other=_other(shared.login, other_token_file, other_tls_ca),
            progress=progress,
        )
    for warning in pushed.warnings:
        output.note(f"warning: {warning}")
    if shared.as_json:
        output.print_json({"reference": pushed.reference, "version": pushed.version.number})
    else:
        output.print_data(pushed.reference)


def export(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", help="What to export.")],
    target: Annotated[str, typer.Argument(metavar="TO", help=f"{_PLACES}.")],
    other_token_file: OtherTokenOption = None,
    other_tls_ca: OtherCaOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version to another place; prints what names it there."""
    from lorry_client.exchange import export_version

    shared = session(ctx, server, as_json)
    with shared.connect() as client, progress_shown() as progress:
        where = export_version(
            client,
            reference,
            target,
            other=_other(shared.login, other_token_file, other_tls_ca),
            progress=progress,
        )
    if shared.as_json:
        output.print_json({"exported": where})
    else:
        output.print_data(where)


def copy(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", help="What to copy.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="[namespace/]name to copy it to.")],
    to_server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of another registry; else no byte moves."),
    ] = None,
    other_token_file: OtherTokenOption = None,
    other_tls_ca: OtherCaOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a version to another name, here or in another registry; prints the reference with its digest."""
    from lorry_client.exchange import copy_version

    shared = session(ctx, server, as_json)
    with shared.connect() as client, progress_shown() as progress:
        version = copy_version(
            client,
            reference,
            name,
            to_server=to_server,
            other=_other(shared.login, other_token_file, other_tls_ca),
            progress=progress,
        )
    if shared.as_json:
        output.print_json({"reference": version.reference, "version": version.number})
    else:
        output.print_data(version.reference)


def _other(login: Login, token_file: Path | None, tls_ca: Path | None) -> Login:
    """How to show oneself elsewhere: never with what is for here."""
    return Login(
        token=None if token_file else "",
        token_file=token_file,
        tls_ca=tls_ca,
        insecure=login.insecure,
    )
