"""The log of events: written in the transaction of the change, in an order that concurrent commits keep.

An event's position comes from one counter row, which a transaction takes last and holds until its commit. Whoever
changes something else meanwhile waits there for a moment; in return positions are given in the order of the commits,
and a reader that sees one sees all before it. A sequence would not do: its numbers are given before the commit, so a
later number can be seen first, and a reader that went on from it would never see the earlier one.
"""

from typing import Any

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.orm import Session

from lorry_registry.entities import AdapterKey
from lorry_registry.events import EventKind, EventLog
from lorry_registry.principal import current_principal
from lorry_registry.sql.lookups import now_utc
from lorry_registry.sql.models import EventLogRow, EventRow

CHANNEL = "lorry_events"
"""The channel on which PostgreSQL tells other processes that there is something new."""

_PENDING = "lorry_events"
_DROP_EVERY = 1000  # so many at a time


def record(session: Session, kind: EventKind, key: AdapterKey, **about: Any) -> None:
    """Notes an event, which gets its position when the transaction commits.

    Args:
        about: fields of `Event`, as JSON has them.
    """
    session.info.setdefault(_PENDING, []).append(
        {
            "kind": kind.value,
            "time": now_utc(),
            "principal": current_principal.get(),
            "namespace": key.namespace,
            "adapter": key.adapter_id,
            "about": {name: value for name, value in about.items() if value},
        }
    )


def write_pending(session: Session, kept: int) -> bool:
    """Gives the noted events their positions; the last thing that a transaction does. Returns whether there are any.

    Of events that are older than the `kept` newest some are dropped now and then.
    """
    pending = session.info.pop(_PENDING, [])
    if not pending:
        return False
    session.flush()
    last = session.execute(
        update(EventLogRow)
        .values(position=EventLogRow.position + len(pending))
        .returning(EventLogRow.position)
    ).scalar_one()
    first = last - len(pending) + 1
    session.execute(
        insert(EventRow),
        [{"position": position, **event} for position, event in enumerate(pending, first)],
    )
    if last // _DROP_EVERY != (first - 1) // _DROP_EVERY and last > kept:
        session.execute(delete(EventRow).where(EventRow.position <= last - kept))
        session.execute(update(EventLogRow).values(dropped=last - kept))
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})
    return True


def read_log(session: Session) -> EventLog:
    row = session.execute(
        select(EventLogRow.log_id, EventLogRow.position, EventLogRow.dropped)
    ).one()
    return EventLog(row.log_id, row.position, row.dropped)
