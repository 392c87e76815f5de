"""`lorry push` and `lorry pull`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry_client._converters import converted
from lorry_client.cli.output import note, print_data, print_json, size
from lorry_client.cli.session import JsonOption, ServerOption, session
from lorry_client.progress import Silence

if TYPE_CHECKING:
    from lorry_client.progress import Progress
    from lorry_client.results import TransferredFile


DirectOption = Annotated[
    bool,
    typer.Option(
        "--direct",
        help="Bytes go straight to or from the registry's store, where it signs links (S3).",
    ),
]


def register(app: typer.Typer) -> None:
    app.command("push")(push)
    app.command("pull")(pull)


def push(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT adapter folder.")],
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
            metavar="FINGERPRINT",
            help="The base it was trained on, where the adapter fits several that the registry knows.",
            show_default=False,
        ),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Sign the version: an elliptic private key, PEM."),
    ] = None,
    direct: DirectOption = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a folder; prints the reference with its digest.

    An adapter of a kind that is served only as LoRA is converted first, as `lorry convert` does it.
    """
    shared = session(ctx, server, as_json)
    with (
        shared.connect() as client,
        converted(folder, note) as servable,
        progress_shown() as progress,
    ):
        pushed = client.push(
            servable,
            name,
            alias,
            base=base,
            description=description,
            sign_key=sign_key,
            direct=direct,
            progress=progress,
        )
    version = pushed.version
    for warning in pushed.warnings:
        note(f"warning: {warning}")
    if shared.as_json:
        print_json(
            {
                "reference": pushed.reference,
                "adapter": version.adapter,
                "version": version.number,
                "digest": version.digest,
                "alias": pushed.alias.name if pushed.alias else None,
                "files": pushed.files,
                "skipped": pushed.skipped,
                "warnings": pushed.warnings,
            }
        )
        return
    print_data(pushed.reference)
    pointed = f", alias {pushed.alias.name}" if pushed.alias else ""
    note(f"version {version.number}{pointed}: {_total(pushed.files)}")


def pull(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", help="What to fetch.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; made if missing.")],
    direct: DirectOption = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a version's files; prints the reference with its digest."""
    shared = session(ctx, server, as_json)
    with shared.connect() as client, progress_shown() as progress:
        pulled = client.pull(reference, folder, direct=direct, progress=progress)
    version = pulled.version
    if shared.as_json:
        print_json(
            {
                "reference": pulled.reference,
                "adapter": version.adapter,
                "version": version.number,
                "digest": version.digest,
                "folder": pulled.folder,
                "files": pulled.files,
            }
        )
        return
    print_data(pulled.reference)
    note(f"version {version.number} in {pulled.folder}: {_total(pulled.files)}")


class Notes(Silence):
    """Says only what is left out."""

    def skip(self, path: str, why: str) -> None:
        note(f"skipped {path}: {why}")


def progress_shown() -> AbstractContextManager[Progress]:
    """Bars on a terminal, notes elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext(Notes())
    from lorry_client.cli.bars import Bars

    return Bars()


def _total(files: tuple[TransferredFile, ...]) -> str:
    return f"{len(files)} files, {size(sum(file.size_bytes for file in files))}"
