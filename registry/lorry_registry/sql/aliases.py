"""The store's verbs over aliases: moved only from the state that the mover saw."""

from collections.abc import Sequence

from sqlalchemy import delete, select

from lorry_registry.entities import (
    AdapterKey,
    Alias,
    AliasTarget,
)
from lorry_registry.errors import Aborted
from lorry_registry.sql import rows
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
    AliasRow,
    AliasTargetRow,
)
from lorry_registry.sql.transactions import Transactions
from lorry_registry.store import NEW_ONLY


class AliasVerbs(Transactions):
    """Aliases of an adapter; see `store.Store`."""

    def set_alias(
        self, key: AdapterKey, alias_id: str, *, targets: Sequence[AliasTarget], etag: str
    ) -> Alias:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = find_alias(session, adapter, alias_id)
            now = now_utc()
            if row is None:
                if etag not in ("", NEW_ONLY):
                    raise stale_etag(f"alias {key}@{alias_id}", "it is not there")
                row = AliasRow(adapter=adapter, name=alias_id)
                session.add(row)
            elif etag == NEW_ONLY:
                raise Aborted(
                    f"alias {key}@{alias_id} exists already, and etag '*' asks that it be new: "
                    "read it, then send its etag",
                    reason="ALIAS_EXISTS",
                    alias=f"{key}@{alias_id}",
                )
            else:
                check_etag(row.etag, etag, f"alias {key}@{alias_id}")
                session.execute(delete(AliasTargetRow).where(AliasTargetRow.alias_id == row.id))
                session.expire(row, ["targets"])
            row.etag = new_etag()
            row.update_time = adapter.update_time = now
            versions = [version_row(session, adapter, target.version) for target in targets]
            session.flush()
            session.add_all(
                AliasTargetRow(
                    alias_id=row.id, position=position, version=version, weight=target.weight
                )
                for position, (target, version) in enumerate(zip(targets, versions, strict=True))
            )
            session.flush()
            session.expire(row, ["targets"])
            return rows.to_alias(row)

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

    def delete_alias(self, key: AdapterKey, alias_id: str, *, etag: str) -> None:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = alias_row(session, adapter, alias_id)
            check_etag(row.etag, etag, f"alias {key}@{alias_id}")
            adapter.update_time = now_utc()
            session.execute(delete(AliasRow).where(AliasRow.id == row.id))
