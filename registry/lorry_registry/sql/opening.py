"""Opening a database with its schema in place."""

import logging
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from lorry_registry.errors import FailedPrecondition
from lorry_registry.sql.database import sqlite_engine
from lorry_registry.sql.schema import Migration, migrate

_LOG = logging.getLogger(__name__)


def open_sqlite(home: Path) -> Engine:
    """The engine on `<home>/registry.db`, at the newest schema: an older one is brought there.

    Raises:
        FailedPrecondition: `HOME_UNWRITABLE`, the file cannot be made or opened; `SCHEMA_NEWER`.
    """
    engine, done = _open_and_migrate(home)
    if done.changed and done.before is not None:
        _LOG.info("the schema of %s went from %s to %s", home, done.before, done.after)
    return engine


def migrate_home(home: Path) -> Migration:
    """Brings the database of a home to the newest schema. Raises as `open_sqlite`."""
    engine, done = _open_and_migrate(home)
    engine.dispose()
    return done


def _open_and_migrate(home: Path) -> tuple[Engine, Migration]:
    path = home / "registry.db"
    engine = sqlite_engine(path)
    try:
        home.mkdir(parents=True, exist_ok=True)
        return engine, migrate(engine)
    except (OSError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise FailedPrecondition(
            f"the registry's database {path} cannot be opened ({cause}): "
            "choose another home with --home or LORRY_HOME, or correct its permissions",
            reason="HOME_UNWRITABLE",
            home=home,
        ) from error
