"""Hearing of the commits of other processes on the same database, so that nobody has to ask for them again and again.

PostgreSQL tells (LISTEN); of SQLite a thread asks the one number that says whether another connection has written. The
bell rings every second all the same: what tells us may be away for a while, or have a proxy in between that drops it.
"""

import logging
import threading
import time

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from lorry_registry.bell import Bell
from lorry_registry.sql.event_log import CHANNEL

_LOG = logging.getLogger(__name__)
_QUIET_SECONDS = 1.0  # the longest between two rings
_LOOK_SECONDS = 0.25  # how often a thread that is told nothing looks whether it should end
_SQLITE_SECONDS = 0.05
_RETRY_SECONDS = 1.0


class Neighbours:
    """A daemon thread that rings a bell; begins with the first listener, since most processes have none."""

    def __init__(self, engine: Engine, bell: Bell) -> None:
        self._engine = engine
        self._bell = bell
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        bell.on_first_listener(self._start)

    def close(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lorry-neighbours", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        listen = (
            self._of_postgresql if self._engine.dialect.name == "postgresql" else self._of_sqlite
        )
        while not self._stopping.is_set():
            try:
                with self._engine.connect() as connection:
                    # This connection is no longer the pool's: what it is set to would surprise the next who gets it.
                    connection.detach()
                    listen(connection)
            except (SQLAlchemyError, OSError) as error:
                _LOG.warning("other processes' changes are heard of late: %s", error)
                self._bell.ring()
                self._stopping.wait(_RETRY_SECONDS)

    def _of_postgresql(self, connection: Connection) -> None:
        import psycopg

        driver = connection.connection.dbapi_connection
        assert isinstance(driver, psycopg.Connection)
        try:
            driver.rollback()
            driver.autocommit = True
            driver.execute(f"LISTEN {CHANNEL}")
            rung = 0.0  # what came before this is not told
            while not self._stopping.is_set():
                told = [*driver.notifies(timeout=_LOOK_SECONDS, stop_after=1)]
                if told or time.monotonic() - rung >= _QUIET_SECONDS:
                    rung = time.monotonic()
                    self._bell.ring()
        except psycopg.Error as error:
            raise OSError(str(error)) from error

    def _of_sqlite(self, connection: Connection) -> None:
        cursor = connection.connection.cursor()  # past SQLAlchemy, which would begin a transaction
        seen = None
        while not self._stopping.wait(_SQLITE_SECONDS):
            (version,) = cursor.execute("PRAGMA data_version").fetchone()
            if version != seen:
                seen = version
                self._bell.ring()
