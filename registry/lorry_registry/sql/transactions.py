"""How a verb of the store runs: in one transaction, with storage errors in our own words."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from lorry_registry.sql.database import WRITE, for_reading
from lorry_registry.sql.failures import storage_errors


class Transactions:
    """What all verbs run in. The engine's schema is in place."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = for_reading(engine)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Session]:
        """Sees one moment, and changes nothing."""
        with storage_errors(), Session(self._reading) as session, session.begin():
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        """Reads what is newest: a row that it locks, and whatever it reads under the lock."""
        with (
            storage_errors(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection(execution_options=WRITE)
            yield session
