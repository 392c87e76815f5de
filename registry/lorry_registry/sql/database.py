"""Engines: SQLite in a file, or PostgreSQL, with the settings that the store's promises rest on."""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from lorry_registry.errors import FailedPrecondition, InvalidArgument

BUSY_TIMEOUT_SECONDS = 30.0
"""How long a writer waits for another before it gives up."""
WRITE: dict[str, Any] = {"lorry_write": True}
"""Execution options of a transaction that will write."""

# A server that vanished without a word is noticed after about these seconds, and its connections made anew.
_AWAY_SECONDS = 10
_POOL_SIZE = 8
_POOL_OVERFLOW = 8


def engine_for(url: str) -> Engine:
    """The engine of `postgresql://…` or `sqlite:///PATH`; it connects when it is first used.

    Raises:
        InvalidArgument: `DATABASE_INVALID`, which never repeats the URL, since passwords stand in URLs.
        FailedPrecondition: `MODULE_MISSING`, the PostgreSQL driver is not installed.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _invalid("it is no URL") from None
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite" and parsed.database:
        return sqlite_engine(Path(parsed.database))
    if kind in ("postgresql", "postgres"):
        return _postgres_engine(parsed.set(drivername="postgresql+psycopg"))
    raise _invalid(f"{parsed.drivername} is not supported")


def sqlite_engine(path: Path) -> Engine:
    """An engine on a file, which is made with the first connection."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_SECONDS}
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def for_reading(engine: Engine) -> Engine:
    """The same connections, in transactions that see one moment: what their queries return fits together.

    SQLite's always do. PostgreSQL's otherwise see what was committed between two queries, an alias's etag with
    another's targets for example.
    """
    if engine.dialect.name != "postgresql":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _postgres_engine(url: URL) -> Engine:
    timeout_ms = int(BUSY_TIMEOUT_SECONDS * 1000)
    try:
        return create_engine(
            url,
            pool_pre_ping=True,  # one that broke since it was last used is made anew, and nobody hears of it
            pool_size=_POOL_SIZE,
            max_overflow=_POOL_OVERFLOW,
            connect_args={
                "connect_timeout": _AWAY_SECONDS,
                "keepalives_idle": _AWAY_SECONDS,
                "tcp_user_timeout": _AWAY_SECONDS * 1000,
                "application_name": "lorry-registry",
                # A registry that hangs in the middle of a change does not keep the others out for ever.
                "options": f"-c lock_timeout={timeout_ms} -c idle_in_transaction_session_timeout={2 * timeout_ms}",
            },
        )
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            "PostgreSQL's driver is not installed: pip install 'lorry[postgres]'",
            reason="MODULE_MISSING",
            module=error.name,
        ) from error


def _configure_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # The driver would begin transactions late and by its own rules; `_begin_sqlite` begins them.
    connection.isolation_level = None
    cursor = connection.cursor()
    # WAL: readers and the writer do not wait for each other. FULL: what was acknowledged survives a power loss.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another wrote in between, whatever the
    # busy timeout; one that is known to write takes the lock at its start and waits for it.
    writes = connection.get_execution_options().get("lorry_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"--database: {why}; write postgresql://USER@HOST/DATABASE or sqlite:///PATH",
        reason="DATABASE_INVALID",
    )
