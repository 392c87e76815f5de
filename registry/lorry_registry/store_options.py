"""The command-line options that say where a registry keeps what it has, for every command that opens one."""

from pathlib import Path
from typing import Annotated

import typer

from lorry_registry.config import BLOBS_VARIABLE, DATABASE_VARIABLE, HOME_VARIABLE

HomeOption = Annotated[
    Path | None,
    typer.Option(
        envvar=HOME_VARIABLE,
        help="Folder of the database and the blobs.",
        show_default="the user's data folder",
    ),
]
DatabaseOption = Annotated[
    str,
    typer.Option(
        envvar=DATABASE_VARIABLE,
        metavar="URL",
        help="postgresql://… of a database that registries share.",
        show_default="SQLite in the home",
    ),
]
BlobsOption = Annotated[
    str,
    typer.Option(
        envvar=BLOBS_VARIABLE,
        metavar="URL",
        help="s3://BUCKET/PREFIX of blobs that registries share, another folder, or memory://.",
        show_default="a folder in the home",
    ),
]
