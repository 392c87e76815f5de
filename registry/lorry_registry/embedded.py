"""The catalogue over its stores: SQLite and a folder, both in one home, or those that are named."""

from pathlib import Path

from lorry_registry.catalogue import Catalogue
from lorry_registry.folder_blobs import FolderBlobStore
from lorry_registry.sql.opening import open_database
from lorry_registry.sql.store import SqlStore


def open_catalogue(home: Path, *, database: str = "", migrate: bool = False) -> Catalogue:
    """The catalogue in `home`, which is made where it is missing; `close` it in the end.

    Several processes may open the same home, and several machines the same stores.

    Args:
        database: a URL, for another than the one in `home`.
        migrate: bring a shared database to the newest schema; one in a file is brought there anyway.

    Raises:
        FailedPrecondition: `HOME_UNWRITABLE`, `SCHEMA_OLDER`, `SCHEMA_NEWER`, `MODULE_MISSING`.
        InvalidArgument: `DATABASE_INVALID`.
        Unavailable: `STORAGE_UNAVAILABLE`.
    """
    blobs = FolderBlobStore(home)
    return Catalogue(SqlStore(open_database(home, database, upgrade=migrate)), blobs)
