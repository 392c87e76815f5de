"""The schema of a database: which revision it has, and the way to the newest."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from lorry_registry.errors import FailedPrecondition, Internal
from lorry_registry.sql.database import WRITE
from lorry_registry.sql.models import Row

FIRST = "0001_first"
"""The schema that homes from before there were revisions have."""
_MIGRATION_LOCK = (
    0x6C6F727279  # of PostgreSQL's advisory locks, the one that whoever migrates holds
)


@dataclass(frozen=True, slots=True)
class Migration:
    """What `migrate` did. `before` is None where there were no tables."""

    before: str | None
    after: str

    @property
    def changed(self) -> bool:
        return self.before != self.after


def head() -> str:
    """The newest revision."""
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert newest is not None
    return newest


def current(engine: Engine) -> str | None:
    """The revision that a database has; None where it has no tables yet."""
    with engine.connect() as connection:
        return _current(connection)


def migrate(engine: Engine) -> Migration:
    """Brings a database to the newest revision, in one transaction; one that is there already stays untouched.

    Several processes may do so at once: one of them does, and the others find it done.

    Raises:
        FailedPrecondition: `SCHEMA_NEWER`, a newer Lorry has written this database.
    """
    newest = head()
    with _migrating(engine) as connection:
        before = _current(connection)
        if before == newest:
            return Migration(before, newest)
        _check_known(before)
        config = alembic_config(connection)
        if before is not None:
            command.stamp(
                config, before
            )  # a home from before there were revisions has none written down
        command.upgrade(config, "head")
        _check_foreign_keys(connection)
        return Migration(before, newest)


def require_newest(engine: Engine) -> None:
    """Raises FailedPrecondition where a database is not at the newest revision: `SCHEMA_OLDER`, `SCHEMA_NEWER`."""
    revision, newest = current(engine), head()
    if revision == newest:
        return
    _check_known(revision)
    raise FailedPrecondition(
        f"the registry's database has the schema {revision or 'of an empty database'} and this Lorry needs {newest}: "
        "make a backup, end the registries that use it, then run `lorry registry migrate`",
        reason="SCHEMA_OLDER",
        schema=revision or "",
        newest=newest,
    )


def differences(engine: Engine) -> list[Any]:
    """What the models have and the database has not, or the other way round, in Alembic's words."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Row.metadata))


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's settings, for its commands on `connection`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("file_template", "%%(rev)s")
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection) -> str | None:
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None and inspect(connection).has_table("adapters"):
        return FIRST
    return revision


def _check_known(revision: str | None) -> None:
    script = ScriptDirectory.from_config(alembic_config())
    if revision is None or revision in {known.revision for known in script.walk_revisions()}:
        return
    raise FailedPrecondition(
        f"the registry's database has the schema {revision}, which this Lorry does not know: "
        "a newer one has written it, run that one, or restore a backup from before",
        reason="SCHEMA_NEWER",
        schema=revision,
    )


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that keeps out whoever else would migrate."""
    with engine.connect().execution_options(**WRITE) as connection:
        if engine.dialect.name == "sqlite":
            # Making a table anew drops the old one, and with foreign keys on, that deletes what refers to its rows.
            # The setting holds outside of a transaction only, and this connection serves nobody afterwards.
            connection.detach()
            cursor = connection.connection.cursor()
            cursor.execute("PRAGMA foreign_keys = OFF")
            cursor.close()
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
            yield connection


def _check_foreign_keys(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise Internal(
            f"the migration would leave {len(broken)} rows that refer to nothing, {tuple(broken[0])} first: "
            "nothing was changed",
            reason="MIGRATION_FAILED",
        )
