"""The catalogue as one process on one machine has it: SQLite and a folder, both in one home."""

from pathlib import Path

from lorry_registry.catalogue import Catalogue
from lorry_registry.folder_blobs import FolderBlobStore
from lorry_registry.sql.opening import open_sqlite
from lorry_registry.sql.store import SqlStore


def open_catalogue(home: Path) -> Catalogue:
    """The catalogue in `home`, which is made where it is missing; `close` it in the end.

    Several processes may open the same home.

    Raises:
        FailedPrecondition: `HOME_UNWRITABLE`.
    """
    blobs = FolderBlobStore(home)
    return Catalogue(SqlStore(open_sqlite(home)), blobs)
