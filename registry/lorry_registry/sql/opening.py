"""Opening a database with its schema in place."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from lorry_registry.errors import FailedPrecondition, LorryError
from lorry_registry.sql.database import engine_for, sqlite_engine
from lorry_registry.sql.failures import storage_errors
from lorry_registry.sql.schema import Migration, current, migrate, require_newest

_LOG = logging.getLogger(__name__)


def open_database(home: Path, url: str = "", *, upgrade: bool = False) -> Engine:
    """The engine on the database at `url`, else on `<home>/registry.db`, with its schema in place.

    An empty database gets its tables, and one in a file is brought to the newest schema. A shared one is not,
    unless `upgrade` says so: other registries may be running on it.

    Raises:
        FailedPrecondition: `HOME_UNWRITABLE`, the file cannot be made or opened; `SCHEMA_OLDER`, `SCHEMA_NEWER`.
        InvalidArgument: `DATABASE_INVALID`.
        Unavailable: `STORAGE_UNAVAILABLE`, no database answers there.
    """
    engine = _connect(home, url)
    try:
        with _opening(engine):
            if engine.dialect.name != "sqlite" and not upgrade and current(engine) is not None:
                require_newest(engine)
            else:
                done = migrate(engine)
                if done.changed and done.before is not None:
                    _LOG.info("the schema went from %s to %s", done.before, done.after)
    except LorryError:
        engine.dispose()
        raise
    return engine


def migrate_database(home: Path, url: str = "") -> Migration:
    """Brings a database to the newest schema. Raises as `open_database`."""
    engine = _connect(home, url)
    try:
        with _opening(engine):
            return migrate(engine)
    finally:
        engine.dispose()


def _connect(home: Path, url: str) -> Engine:
    return engine_for(url) if url else sqlite_engine(home / "registry.db")


@contextmanager
def _opening(engine: Engine) -> Iterator[None]:
    """What goes wrong when a database is opened, with the way out."""
    if engine.dialect.name != "sqlite":
        with storage_errors():
            yield
        return
    path = Path(engine.url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise FailedPrecondition(
            f"the registry's database {path} cannot be opened ({cause}): "
            "choose another home with --home or LORRY_HOME, or correct its permissions",
            reason="HOME_UNWRITABLE",
            home=path.parent,
        ) from error
