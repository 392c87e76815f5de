"""A database: one engine, the right settings, storage errors in our own words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from lorry_registry.errors import FailedPrecondition, Internal, ResourceExhausted, Unavailable

BUSY_TIMEOUT_SECONDS = 30.0
WRITE = {"lorry_write": True}
"""Execution options of a transaction that will write."""


def sqlite_engine(path: Path) -> Engine:
    """An engine on a file, which is made with the first connection."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what the database raises into what callers are told."""
    try:
        yield
    except OperationalError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary == sqlite3.SQLITE_FULL:
            raise ResourceExhausted(
                "the registry's disk is full, nothing was changed: free space, then retry",
                reason="DISK_FULL",
            ) from error
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise FailedPrecondition(
                f"the registry's database cannot be written ({error.orig}): correct its permissions",
                reason="HOME_UNWRITABLE",
            ) from error
        if primary == sqlite3.SQLITE_IOERR:
            raise Internal(
                f"the registry's disk fails ({error.orig})", reason="STORAGE_FAILED"
            ) from error
        # Locked for longer than the busy timeout, or a server that is away.
        raise Unavailable(
            f"the registry's database is busy or away ({error.orig}): retry",
            reason="STORAGE_UNAVAILABLE",
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
