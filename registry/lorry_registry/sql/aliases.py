"""The store's verbs over aliases: moved only from the state that the mover saw, and back again."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from lorry_registry.entities import (
    AdapterKey,
    Alias,
    AliasMove,
    AliasTarget,
)
from lorry_registry.errors import Aborted, FailedPrecondition
from lorry_registry.events import EventKind
from lorry_registry.sql import rows
from lorry_registry.sql.alias_moves import (
    move_to_restore,
    moves_before,
    targets_of,
    write_move,
)
from lorry_registry.sql.event_log import record
from lorry_registry.sql.lookups import (
    adapter_row,
    alias_row,
    check_etag,
    find_alias,
    lock_adapter,
    new_etag,
    now_utc,
    stale_etag,
    version_row,
)
from lorry_registry.sql.models import (
    AdapterRow,
    AliasRow,
    AliasTargetRow,
    VersionRow,
)
from lorry_registry.sql.transactions import Transactions
from lorry_registry.store import NEW_ONLY


class AliasVerbs(Transactions):
    """Aliases of an adapter; see `store.Store`."""

    def set_alias(
        self,
        key: AdapterKey,
        alias_id: str,
        *,
        targets: Sequence[AliasTarget],
        etag: str,
        why: str = "",
    ) -> Alias:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = find_alias(session, adapter, alias_id)
            if row is None and etag not in ("", NEW_ONLY):
                raise stale_etag(f"alias {key}@{alias_id}", "it is not there")
            if row is not None and etag == NEW_ONLY:
                raise Aborted(
                    f"alias {key}@{alias_id} exists already, and etag '*' asks that it be new: "
                    "read it, then send its etag",
                    reason="ALIAS_EXISTS",
                    alias=f"{key}@{alias_id}",
                )
            if row is not None:
                check_etag(row.etag, etag, f"alias {key}@{alias_id}")
            return _move(session, adapter, alias_id, row, targets, why=why)

    def rollback_alias(
        self, key: AdapterKey, alias_id: str, *, move: int, etag: str, why: str = ""
    ) -> Alias:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = find_alias(session, adapter, alias_id)
            if row is not None:
                check_etag(row.etag, etag, f"alias {key}@{alias_id}")
            elif etag:
                raise stale_etag(f"alias {key}@{alias_id}", "it is not there")
            restored = move_to_restore(session, adapter, alias_id, move)
            targets = targets_of(session, adapter, restored)
            return _move(
                session, adapter, alias_id, row, targets, why=why, restores=restored.number
            )

    def list_alias_moves(
        self, key: AdapterKey, alias_id: str, *, after: int | None, limit: int
    ) -> list[AliasMove]:
        with self._read() as session:
            found = moves_before(session, adapter_row(session, key), alias_id, after, limit)
            return [rows.to_move(row) for row in found]

    def get_alias(self, key: AdapterKey, alias_id: str) -> Alias:
        with self._read() as session:
            return rows.to_alias(alias_row(session, adapter_row(session, key), alias_id))

    def list_aliases(self, key: AdapterKey, *, after: str | None, limit: int) -> list[Alias]:
        with self._read() as session:
            adapter = adapter_row(session, key)
            query = select(AliasRow).where(AliasRow.adapter_id == adapter.id)
            if after is not None:
                query = query.where(AliasRow.name > after)
            query = query.order_by(AliasRow.name).limit(limit)
            return [rows.to_alias(row) for row in session.scalars(query)]

    def delete_alias(self, key: AdapterKey, alias_id: str, *, etag: str, why: str = "") -> None:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = alias_row(session, adapter, alias_id)
            check_etag(row.etag, etag, f"alias {key}@{alias_id}")
            adapter.update_time = now_utc()
            before = rows.to_alias(row).targets
            write_move(session, adapter, alias_id, before=before, after=(), why=why)
            session.execute(delete(AliasRow).where(AliasRow.id == row.id))
            record(session, EventKind.ALIAS_DELETED, key, alias=alias_id, why=why)


def _move(
    session: Session,
    adapter: AdapterRow,
    alias_id: str,
    row: AliasRow | None,
    targets: Sequence[AliasTarget],
    *,
    why: str,
    restores: int = 0,
) -> Alias:
    """Points the alias, made where `row` is None, at the targets' versions, and writes the move down."""
    before: tuple[AliasTarget, ...] = ()
    if row is None:
        row = AliasRow(adapter=adapter, name=alias_id)
        session.add(row)
    else:
        before = rows.to_alias(row).targets
        session.execute(delete(AliasTargetRow).where(AliasTargetRow.alias_id == row.id))
        session.expire(row, ["targets"])
    row.etag = new_etag()
    row.update_time = adapter.update_time = now_utc()
    versions = [_usable(session, adapter, target.version) for target in targets]
    session.flush()
    session.add_all(
        AliasTargetRow(alias_id=row.id, position=position, version=version, weight=target.weight)
        for position, (target, version) in enumerate(zip(targets, versions, strict=True))
    )
    session.flush()
    session.expire(row, ["targets"])
    alias = rows.to_alias(row)
    write_move(
        session, adapter, alias_id, before=before, after=alias.targets, why=why, restores=restores
    )
    targets_now = rows.targets_to_json(alias.targets)
    record(session, EventKind.ALIAS_MOVED, alias.key, alias=alias_id, targets=targets_now, why=why)
    return alias


def _usable(session: Session, adapter: AdapterRow, number: int) -> VersionRow:
    row = version_row(session, adapter, number)
    if row.block_reason is not None:
        raise FailedPrecondition(
            f"{rows.to_key(adapter)}:{number} is blocked ({row.block_reason}): no alias can be pointed at it, choose "
            "another version, or unblock it first",
            reason="VERSION_BLOCKED",
            version=f"{rows.to_key(adapter)}:{number}",
            why=row.block_reason,
        )
    return row
