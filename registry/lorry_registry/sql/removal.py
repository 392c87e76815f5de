"""The store's verbs that take away: adapters and versions are deleted, brought back, and purged for good."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from lorry_registry.entities import Adapter, AdapterKey, Version
from lorry_registry.errors import AlreadyExists, FailedPrecondition
from lorry_registry.events import EventKind
from lorry_registry.sql import rows
from lorry_registry.sql.event_log import record
from lorry_registry.sql.lookups import (
    check_etag,
    lock_adapter,
    new_etag,
    now_utc,
    version_row,
)
from lorry_registry.sql.models import AdapterRow, AliasRow, AliasTargetRow, VersionRow
from lorry_registry.sql.transactions import Transactions

_SHOWN_ALIASES = 8
_PURGED_AT_ONCE = 1000  # of each; the next collection takes the next


class RemovalVerbs(Transactions):
    """See `store.Store`."""

    def delete_adapter(
        self, key: AdapterKey, *, force: bool, etag: str, kept: timedelta
    ) -> Adapter:
        with self._write() as session:
            row = lock_adapter(session, key)
            check_etag(row.etag, etag, f"adapter {key}")
            if row.latest_version and not force:
                raise FailedPrecondition(
                    f"adapter {key} has versions: set force to delete them with it",
                    reason="ADAPTER_HAS_VERSIONS",
                    adapter=key,
                )
            record(session, EventKind.ADAPTER_DELETED, key)
            _mark(row, kept)
            if not row.latest_version:  # there is nothing to bring back
                row.purge_time = row.delete_time
                session.flush()
                gone = rows.to_adapter(row)
                session.execute(delete(AdapterRow).where(AdapterRow.id == row.id))
                return gone
            session.flush()
            return rows.to_adapter(row)

    def undelete_adapter(self, key: AdapterKey) -> Adapter:
        with self._write() as session:
            row = lock_adapter(session, key, deleted=True)
            if row.delete_time is None:
                raise _not_deleted(f"adapter {key}", "ADAPTER_NOT_DELETED")
            _unmark(row)
            session.flush()
            record(session, EventKind.ADAPTER_UNDELETED, key)
            return rows.to_adapter(row)

    def purge_adapter(self, key: AdapterKey) -> None:
        with self._write() as session:
            row = lock_adapter(session, key, deleted=True)
            if row.delete_time is None:
                raise FailedPrecondition(
                    f"adapter {key} is not deleted: delete it first, then purge it",
                    reason="ADAPTER_NOT_DELETED",
                    adapter=key,
                )
            session.execute(delete(AdapterRow).where(AdapterRow.id == row.id))

    def delete_version(
        self, key: AdapterKey, number: int, *, force: bool, etag: str, kept: timedelta
    ) -> Version:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = version_row(session, adapter, number)
            check_etag(row.etag, etag, f"version {key}:{number}")
            if not force:
                _check_unused(session, key, row)
            _mark(row, kept)
            adapter.update_time = now_utc()
            session.flush()
            record(session, EventKind.VERSION_DELETED, key, version=number, digest=row.digest)
            return rows.to_version(row)

    def undelete_version(self, key: AdapterKey, number: int) -> Version:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = version_row(session, adapter, number, deleted=True)
            if row.delete_time is None:
                raise _not_deleted(f"version {key}:{number}", "VERSION_NOT_DELETED")
            _unmark(row)
            adapter.update_time = now_utc()
            session.flush()
            record(session, EventKind.VERSION_UNDELETED, key, version=number, digest=row.digest)
            return rows.to_version(row)

    def purge_version(self, key: AdapterKey, number: int) -> None:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = version_row(session, adapter, number, deleted=True)
            if row.delete_time is None:
                raise FailedPrecondition(
                    f"version {key}:{number} is not deleted: delete it first, then purge it",
                    reason="VERSION_NOT_DELETED",
                    version=number,
                )
            _check_unused(session, key, row)
            session.execute(delete(VersionRow).where(VersionRow.id == row.id))

    def purge_expired(self, now: datetime, *, dry_run: bool) -> int:
        with self._read() as session:
            count = sum(len(ids) for _, ids in _expired(session, now))
        if count == 0 or dry_run:
            return count
        with self._write() as session:
            # Asked again, and locked: some may have been brought back, or are being so.
            due = _expired(session, now, lock=True)
            for table, ids in due:
                session.execute(delete(table).where(table.id.in_(ids)))
            return sum(len(ids) for _, ids in due)


def _expired(
    session: Session, now: datetime, *, lock: bool = False
) -> list[tuple[type[AdapterRow | VersionRow], Sequence[int]]]:
    """What is due. `lock`: it stays so until the transaction ends; what somebody is about to change is not among it."""
    adapters = select(AdapterRow.id).where(AdapterRow.purge_time <= now).limit(_PURGED_AT_ONCE)
    pointed_at = exists().where(AliasTargetRow.version_id == VersionRow.id)
    versions = select(VersionRow.id).where(VersionRow.purge_time <= now, ~pointed_at)
    versions = versions.limit(_PURGED_AT_ONCE)
    if lock:  # SQLite, whose writers exclude each other, leaves it out
        adapters = adapters.with_for_update(skip_locked=True)
        versions = versions.with_for_update(skip_locked=True)
    return [
        (AdapterRow, session.scalars(adapters).all()),
        (VersionRow, session.scalars(versions).all()),
    ]


def _mark(row: AdapterRow | VersionRow, kept: timedelta) -> None:
    row.delete_time = row.update_time = now_utc()
    row.purge_time = row.delete_time + kept
    row.etag = new_etag()


def _unmark(row: AdapterRow | VersionRow) -> None:
    row.delete_time = row.purge_time = None
    row.update_time = now_utc()
    row.etag = new_etag()


def _not_deleted(what: str, reason: str) -> AlreadyExists:
    return AlreadyExists(f"{what} is not deleted: there is nothing to bring back", reason=reason)


def _check_unused(session: Session, key: AdapterKey, row: VersionRow) -> None:
    names = session.scalars(
        select(AliasRow.name)
        .join(AliasTargetRow, AliasTargetRow.alias_id == AliasRow.id)
        .where(AliasTargetRow.version_id == row.id)
        .order_by(AliasRow.name)
        .limit(_SHOWN_ALIASES)
    ).all()
    if names:
        raise FailedPrecondition(
            f"version {key}:{row.number} is in use: the alias {', '.join(names)} points at it; move or delete that "
            "first (or set force to delete the version all the same: what the alias means is then not there)",
            reason="VERSION_IN_USE",
            version=row.number,
            aliases=",".join(names),
        )
