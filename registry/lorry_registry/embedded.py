"""The catalogue over its stores: SQLite and a folder, both in one home, or those that are named."""

from pathlib import Path

from lorry_registry.blob_stores import open_blobs
from lorry_registry.catalogue import Catalogue
from lorry_registry.sql.opening import open_database
from lorry_registry.sql.store import SqlStore


def open_catalogue(
    home: Path, *, database: str = "", blobs: str = "", migrate: bool = False
) -> Catalogue:
    """The catalogue in `home`, which is made where it is missing; `close` it in the end.

    Several processes may open the same home, and several machines the same stores.

    Args:
        database: a URL, for another than the one in `home`.
        blobs: a URL, for another place than `home`.
        migrate: bring a shared database to the newest schema; one in a file is brought there anyway.

    Raises:
        FailedPrecondition: `HOME_UNWRITABLE`, `SCHEMA_OLDER`, `SCHEMA_NEWER`, `BLOBS_UNWRITABLE`,
            `BLOBS_UNSUITABLE`, `MODULE_MISSING`.
        InvalidArgument: `DATABASE_INVALID`, `BLOBS_INVALID`.
        Unavailable: `STORAGE_UNAVAILABLE`, `BLOBS_UNAVAILABLE`.
    """
    opened = open_blobs(home, blobs)
    return Catalogue(SqlStore(open_database(home, database, upgrade=migrate)), opened, home)
