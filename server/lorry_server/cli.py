"""`lorry serve`. Importing this costs next to nothing: everything heavy is imported once the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorry_registry.config import BLOBS_VARIABLE, DATABASE_VARIABLE, default_home
from lorry_registry.errors import LorryError
from lorry_registry.security import Auth, Security
from lorry_registry.security_options import (
    AccessFileOption,
    AuthOption,
    InsecureOption,
    TlsCertOption,
    TlsClientCaOption,
    TlsKeyOption,
)
from lorry_server.config import RegistryLogin, ServeConfig

_DEFAULTS = ServeConfig(home=Path())  # where home is by default is found out when it is needed


def register(app: typer.Typer) -> None:
    """Adds the command to `lorry`."""
    app.command("serve")(serve)


def serve(
    ctx: typer.Context,
    base: Annotated[
        str, typer.Option(metavar="PATH_OR_ID", help="A shipped base, a folder, or a hub id.")
    ] = _DEFAULTS.base,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the registry and the adapters are kept; else $LORRY_HOME, else the user's data folder.",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where to answer gRPC; port 0 takes any free one."),
    ] = _DEFAULTS.listen,
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to serve /metrics; empty for nowhere.")
    ] = _DEFAULTS.metrics,
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="A registry elsewhere, instead of the one in this process."
        ),
    ] = _DEFAULTS.registry,
    registry_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The token to show it; else $LORRY_REGISTRY_TOKEN."),
    ] = None,
    registry_tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Whose certificate it shows, PEM: TLS.")
    ] = None,
    registry_tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate to show it, PEM.")
    ] = None,
    registry_tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its key, PEM.")
    ] = None,
    slots: Annotated[
        int, typer.Option(metavar="N", help="How many adapters are in device memory at once.")
    ] = _DEFAULTS.slots,
    max_rank: Annotated[
        int, typer.Option(metavar="R", help="The largest rank of an adapter.")
    ] = _DEFAULTS.max_rank,
    dense_memory_bytes: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Bytes of device memory for whole matrices of adapters: modules_to_save, embeddings.",
        ),
    ] = _DEFAULTS.dense_memory_bytes,
    merge_memory: Annotated[
        int,
        typer.Option(metavar="N", help="Bytes for the weights that an adapter is merged into."),
    ] = _DEFAULTS.merge_memory,
    auto_merge: Annotated[
        bool,
        typer.Option(
            "--auto-merge", help="Merge by itself the adapter that most requests are for."
        ),
    ] = _DEFAULTS.auto_merge,
    cache_bytes: Annotated[
        int,
        typer.Option(metavar="N", help="Bytes of disk for adapters from a registry elsewhere."),
    ] = _DEFAULTS.cache_bytes,
    database: Annotated[
        str,
        typer.Option(
            envvar=DATABASE_VARIABLE,
            metavar="URL",
            help="postgresql://… of a database that registries share, for the one in this process.",
            show_default="SQLite in the home",
        ),
    ] = _DEFAULTS.database,
    blobs: Annotated[
        str,
        typer.Option(
            envvar=BLOBS_VARIABLE,
            metavar="URL",
            help="s3://BUCKET/PREFIX of blobs that registries share, or another folder.",
            show_default="a folder in the home",
        ),
    ] = _DEFAULTS.blobs,
    migrate: Annotated[
        bool,
        typer.Option("--migrate", help="Bring a shared database to the newest schema first."),
    ] = _DEFAULTS.migrate,
    require_signature: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Load only what the owner of this public key (PEM) signed; may be given again.",
        ),
    ] = None,
    auth: AuthOption = Auth.AUTO,
    access: AccessFileOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    insecure: InsecureOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what goes wrong as one JSON object.")
    ] = False,
) -> None:
    """Serve a base and its adapters over gRPC."""
    import asyncio
    import logging
    import os

    if as_json and ctx.obj is not None:
        ctx.obj.as_json = True  # `lorry` prints the failures, and ends with each one's exit code
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said once, by us
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # it warns of kernels that it would download
    config = ServeConfig(
        base=base,
        home=home or default_home(),
        listen=listen,
        metrics=metrics,
        registry=registry,
        registry_login=RegistryLogin(
            registry_token_file, registry_tls_ca, registry_tls_cert, registry_tls_key
        ),
        require_signature=tuple(require_signature or ()),
        security=Security(auth, access, tls_cert, tls_key, tls_client_ca, insecure),
        slots=slots,
        max_rank=max_rank,
        dense_memory_bytes=dense_memory_bytes,
        merge_memory=merge_memory,
        auto_merge=auto_merge,
        cache_bytes=cache_bytes,
        database=database,
        blobs=blobs,
        migrate=migrate,
    )
    try:
        from lorry_server.app import serve as serve_forever

        code = asyncio.run(serve_forever(config, say))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].startswith("lorry"):
            raise
        raise LorryError(
            f"The Python module {error.name} is missing; install it with: pip install 'lorry[server]'",
            reason="MODULE_MISSING",
            module=error.name,
        ) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(code)


def say(line: str) -> None:
    """To the operator: on stderr, at once."""
    typer.echo(line, err=True)
