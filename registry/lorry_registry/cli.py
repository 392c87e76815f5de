"""`lorry registry …`. Imports little: `lorry --help` loads this file."""

from typing import Annotated

import typer

from lorry_registry import access_cli, upkeep_cli
from lorry_registry.config import RegistryConfig
from lorry_registry.security import Auth, Security
from lorry_registry.security_options import (
    AccessFileOption,
    AuthOption,
    InsecureOption,
    TlsCertOption,
    TlsClientCaOption,
    TlsKeyOption,
)
from lorry_registry.store_options import BlobsOption, DatabaseOption, HomeOption


def register(app: typer.Typer) -> None:
    """Adds the group `registry` to the `lorry` command."""
    group = typer.Typer(
        no_args_is_help=True, help="Run a registry by itself, and look after its stores."
    )
    group.command("serve")(serve)
    upkeep_cli.register(group)
    access_cli.register(group)
    group.callback()(_group)
    app.add_typer(group, name="registry")


def _group() -> None:
    """Run a registry by itself, and look after its stores."""


def serve(
    home: HomeOption = None,
    database: DatabaseOption = RegistryConfig.database,
    blobs: BlobsOption = RegistryConfig.blobs,
    migrate: Annotated[
        bool,
        typer.Option("--migrate", help="Bring a shared database to the newest schema first."),
    ] = RegistryConfig.migrate,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes a free one and prints it.")
    ] = RegistryConfig.listen,
    auth: AuthOption = Auth.AUTO,
    access: AccessFileOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Serve the registry alone; servers use it with `lorry serve --registry HOST:PORT`."""
    import logging
    import os

    # gRPC's core would add a line of its own to what is said here when a port is taken.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from lorry_registry.config import default_home
    from lorry_registry.rpc.server import run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # what it did is said by us
    # What goes wrong reaches the `lorry` command, which says it in a line and ends with the code for its kind.
    security = Security(auth, access, tls_cert, tls_key, tls_client_ca, insecure)
    run(RegistryConfig(home or default_home(), database, blobs, migrate, listen, security))
