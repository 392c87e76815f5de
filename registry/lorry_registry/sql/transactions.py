"""How a verb of the store runs: in one transaction, with its events, and storage errors in our own words."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from lorry_registry.bell import Bell
from lorry_registry.events import EVENTS_KEPT
from lorry_registry.sql.database import WRITE, for_reading
from lorry_registry.sql.event_log import write_pending
from lorry_registry.sql.failures import storage_errors
from lorry_registry.sql.neighbours import Neighbours


class Transactions:
    """What all verbs run in. The engine's schema is in place."""

    def __init__(self, engine: Engine, *, events_kept: int = EVENTS_KEPT) -> None:
        self._engine = engine
        self._reading = for_reading(engine)
        self._events_kept = events_kept
        self.bell = Bell()
        self._neighbours = Neighbours(engine, self.bell)

    def close(self) -> None:
        self.bell.close()
        self._neighbours.close()
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Session]:
        """Sees one moment, and changes nothing."""
        with storage_errors(), Session(self._reading) as session, session.begin():
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        """Reads what is newest: a row that it locks, and whatever it reads under the lock."""
        with storage_errors(), Session(self._engine, expire_on_commit=False) as session:
            with session.begin():
                session.connection(execution_options=WRITE)
                yield session
                changed = write_pending(session, self._events_kept)
            if changed:
                self.bell.ring()
