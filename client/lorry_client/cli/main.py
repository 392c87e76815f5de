"""`lorry`: puts the commands together, and is the one place where failures become messages and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lorry_client._login import Login
from lorry_client.cli import (
    access,
    adapters,
    aliases,
    compose,
    exchange,
    generate,
    merge,
    plugins,
    prompts,
    status,
    transfer,
    versions,
    watch,
)
from lorry_client.cli.exit_codes import EPILOG, exit_code
from lorry_client.cli.output import print_data, print_error
from lorry_client.cli.session import JsonOption, ServerOption, Session, session

_SECURITY = "Security"


class Root(TyperGroup):
    """The command group at the top: the one place that catches errors."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if hasattr(error, "format_message"):  # wrong usage, which the parser itself reports
                raise
            if os.environ.get("LORRY_TRACEBACK"):
                raise
            print_error(error, ctx.ensure_object(Session).as_json)
            raise typer.Exit(exit_code(error)) from error
        return result


def build_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        cls=Root,
        help="Publish LoRA adapters and generate with any of them over one base.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich takes as long to import as everything else together
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_shared_options)
    transfer.register(app)
    exchange.register(app)
    generate.register(app)
    prompts.register(app)
    status.register(app)
    merge.register(app)
    compose.register(app)
    adapters.register(app)
    aliases.register(app)
    versions.register(app)
    watch.register(app)
    access.register(app)
    plugins.register_all(app)
    return app


def main() -> None:
    """Runs `lorry` and exits."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something without encodings
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        build_app()(prog_name="lorry")
    finally:
        _flush_or_mute()


def _flush_or_mute() -> None:
    """Where nobody reads stdout any more, lets the interpreter's last flush go nowhere instead of failing."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print_data(f"lorry {version('lorry')}")
        except PackageNotFoundError:
            print_data("lorry, not installed")
        raise typer.Exit


def _shared_options(
    ctx: typer.Context,
    server: ServerOption = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Who calls; better in LORRY_TOKEN, where no list of processes shows it.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with the token that only its owner can read; else LORRY_TOKEN_FILE.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TLS: whose certificate the server shows, PEM; else LORRY_TLS_CA.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Mutual TLS: the certificate to show, PEM; else LORRY_TLS_CERT.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Its key, PEM; else LORRY_TLS_KEY.", rich_help_panel=_SECURITY
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Send the token to another machine in clear text.",
            rich_help_panel=_SECURITY,
        ),
    ] = False,
    as_json: JsonOption = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    shared = session(ctx, server, as_json)
    shared.login = Login(token, token_file, tls_ca, tls_cert, tls_key, insecure)
