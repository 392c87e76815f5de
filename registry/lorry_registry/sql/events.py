"""The store's verbs over events: read in their order, never changed."""

from sqlalchemy import select

from lorry_registry.events import Event, EventLog, token_expired
from lorry_registry.sql import rows
from lorry_registry.sql.event_log import read_log
from lorry_registry.sql.models import EventRow
from lorry_registry.sql.transactions import Transactions


class EventVerbs(Transactions):
    """The log of events; see `store.Store`."""

    def event_log(self) -> EventLog:
        with self._read() as session:
            return read_log(session)

    def list_events(self, *, after: int, limit: int) -> list[Event]:
        with self._read() as session:
            query = select(EventRow).where(EventRow.position > after)
            query = query.order_by(EventRow.position).limit(limit)
            found = [rows.to_event(row) for row in session.scalars(query)]
            # Asked afterwards: what was dropped between the two questions is noticed.
            log = read_log(session)
            if after < log.dropped:
                raise token_expired(after, log)
            return found
