"""What a database raises, in our own words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lorry_registry.errors import (
    FailedPrecondition,
    Internal,
    LorryError,
    ResourceExhausted,
    Unavailable,
)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what the database raises into what callers are told.

    An IntegrityError passes: the verb that provoked it knows what it means.
    """
    try:
        yield
    except IntegrityError:
        raise
    except PoolTimeout as error:
        raise Unavailable(
            "all of the registry's connections to its database are in use: retry",
            reason="STORAGE_UNAVAILABLE",
        ) from error
    except DBAPIError as error:
        raise translated(error) from error


def translated(error: DBAPIError) -> LorryError:
    """The domain's error for what the driver raised."""
    cause: Any = error.orig
    code = getattr(cause, "sqlite_errorcode", None)
    kind = _of_sqlite(code & 0xFF) if code is not None else _of_postgres(cause)
    if kind is ResourceExhausted:
        return ResourceExhausted(
            "the registry's disk is full, nothing was changed: free space, then retry",
            reason="DISK_FULL",
        )
    if kind is FailedPrecondition:
        return FailedPrecondition(
            f"the registry's database cannot be written ({cause}): correct its permissions",
            reason="HOME_UNWRITABLE",
        )
    if kind is Internal:
        return Internal(f"the registry's database fails ({cause})", reason="STORAGE_FAILED")
    # Locked for longer than the timeout, or a server that is away, ends or has too many connections.
    return Unavailable(
        f"the registry's database is busy or away ({cause}): retry", reason="STORAGE_UNAVAILABLE"
    )


def _of_sqlite(primary: int) -> type[LorryError]:
    if primary == sqlite3.SQLITE_FULL:
        return ResourceExhausted
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return FailedPrecondition
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Internal
    return Unavailable if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else Internal


def _of_postgres(cause: Any) -> type[LorryError]:
    """By the SQLSTATE (PostgreSQL's manual, appendix A); a connection that broke has none."""
    state = getattr(cause, "sqlstate", None)
    if state is None:
        return Unavailable
    if state in ("53100", "53200"):  # disk full, out of memory
        return ResourceExhausted
    if state in ("25006", "42501"):  # a standby or a read-only database; no right to the table
        return FailedPrecondition
    # 08 connection, 40 serialization and deadlock, 53 resources, 55 locks, 57 operator intervention
    return Unavailable if state[:2] in ("08", "40", "53", "55", "57") else Internal
