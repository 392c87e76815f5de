"""The command-line options that make a `Security`, for every command that listens."""

from pathlib import Path
from typing import Annotated

import typer

from lorry_registry.security import Auth

_PANEL = "Security"

AuthOption = Annotated[
    Auth,
    typer.Option(
        help="Whether callers need a token; auto: with --access or --tls-client-ca, and where others reach the server.",
        rich_help_panel=_PANEL,
    ),
]
AccessFileOption = Annotated[
    Path | None,
    typer.Option(
        "--access",
        metavar="FILE",
        help="TOML: what certificates and OIDC tokens may do.",
        rich_help_panel=_PANEL,
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The certificate chain to show, PEM.", rich_help_panel=_PANEL
    ),
]
TlsKeyOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its key, PEM.", rich_help_panel=_PANEL)
]
TlsClientCaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Clients must show a certificate of it, PEM.", rich_help_panel=_PANEL
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Listen where other machines reach it though authentication or TLS is missing.",
        rich_help_panel=_PANEL,
    ),
]
