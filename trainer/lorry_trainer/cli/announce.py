"""`lorry announce BASE`: a registry takes adapters for bases that it knows; this makes one known without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from lorry_client.cli.output import note, print_data, print_json
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_trainer.cli.loading import refusals


def announce(
    ctx: typer.Context,
    base: Annotated[
        str,
        typer.Argument(metavar="BASE", help="A shipped name, a folder, or org/name[@revision]."),
    ],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a base known to the registry, so that it takes adapters for it; prints the base's fingerprint.

    For bases that no server there runs yet. The weights are read for the fingerprint and not loaded. Ends with 2 where
    the base cannot be used.
    """
    shared = session(ctx, server, as_json)
    with refusals(shared.as_json):
        from lorry_trainer.errors import UnusableBase

        try:
            from lorry_trainer.quiet import quiet_logs

            quiet_logs()
            from lorry_trainer.announce import announce as make_known
        except ImportError as error:
            raise UnusableBase(
                f"describing a base needs more libraries ({error}): pip install 'lorry[trainer]'"
            ) from error
        with shared.connect() as client:
            described = make_known(base, client)
            told = client.server
    if shared.as_json:
        print_json(
            {
                "fingerprint": described.fingerprint,
                "architecture": described.architecture,
                "is_encoder": described.is_encoder,
                "modules": len(described.modules),
            }
        )
        return
    print_data(described.fingerprint)
    note(
        f"{described.architecture}: the registry at {told} takes adapters for {base}; a server of it serves them"
    )
