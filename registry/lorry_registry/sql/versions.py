"""The store's verbs over versions: added one after the other; their content never changes."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from lorry_registry.entities import (
    AdapterKey,
    AdapterSpec,
    File,
    Lineage,
    Version,
)
from lorry_registry.errors import FailedPrecondition, NotFound
from lorry_registry.events import EventKind
from lorry_registry.searches import Search
from lorry_registry.sql import rows
from lorry_registry.sql.conditions import in_order, of_versions, order_of_versions
from lorry_registry.sql.event_log import record
from lorry_registry.sql.lookups import (
    adapter_row,
    check_not_deleted,
    lock_adapter,
    new_etag,
    now_utc,
    version_row,
)
from lorry_registry.sql.models import (
    AdapterRow,
    VersionFileRow,
    VersionRow,
)
from lorry_registry.sql.namespaces import check_room
from lorry_registry.sql.transactions import Transactions
from lorry_registry.sql.upkeep import hold_blobs


class VersionVerbs(Transactions):
    """Versions of an adapter; see `store.Store`."""

    def create_version(
        self,
        key: AdapterKey,
        *,
        digest: str,
        files: Sequence[File],
        lineage: Lineage,
        spec: AdapterSpec,
        description: str,
        confirm: Callable[[], None] = lambda: None,
    ) -> Version:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            same = session.scalar(
                select(VersionRow).where(
                    VersionRow.adapter_id == adapter.id, VersionRow.digest == digest
                )
            )
            if same is not None:
                if same.delete_time is not None:
                    raise FailedPrecondition(
                        f"these files are {key}:{same.number}, which is deleted: `lorry adapters undelete "
                        f"{key}:{same.number}` brings it back; purged, they can be published anew",
                        reason="VERSION_DELETED",
                        version=same.number,
                    )
                return rows.to_version(same)
            hold_blobs(session)
            confirm()
            size_bytes = sum(file.size_bytes for file in files)
            check_room(session, key.namespace, versions=1, size_bytes=size_bytes)
            now = now_utc()
            adapter.latest_version += 1
            adapter.update_time = now
            row = VersionRow(
                adapter=adapter,
                number=adapter.latest_version,
                digest=digest,
                description=description,
                base_fingerprint=lineage.base_fingerprint,
                lineage=rows.lineage_to_json(lineage),
                peft_type=spec.peft_type,
                max_rank=spec.max_rank,
                module_count=spec.module_count,
                parameter_count=spec.parameter_count,
                size_bytes=spec.size_bytes,
                rank_stabilized=spec.rank_stabilized,
                create_time=now,
                update_time=now,
                etag=new_etag(),
                files=[
                    VersionFileRow(
                        path=file.path,
                        digest=file.digest,
                        size_bytes=file.size_bytes,
                        media_type=file.media_type,
                    )
                    for file in sorted(files, key=lambda file: file.path)
                ],
            )
            session.add(row)
            session.flush()
            record(session, EventKind.VERSION_CREATED, key, version=row.number, digest=row.digest)
            return rows.to_version(row)

    def get_version(self, key: AdapterKey, number: int) -> Version:
        with self._read() as session:
            adapter = adapter_row(session, key)
            return rows.to_version(version_row(session, adapter, number, deleted=True))

    def get_version_by_digest(self, key: AdapterKey, digest: str) -> Version:
        with self._read() as session:
            adapter = adapter_row(session, key)
            row = session.scalar(
                select(VersionRow).where(
                    VersionRow.adapter_id == adapter.id, VersionRow.digest == digest
                )
            )
            if row is None:
                raise NotFound(
                    f"adapter {key} has no version with the digest {digest}: "
                    "list its versions, or publish it",
                    reason="VERSION_NOT_FOUND",
                    adapter=key,
                    digest=digest,
                )
            check_not_deleted(key, row)
            return rows.to_version(row)

    def search_versions(
        self,
        among: AdapterKey | Collection[str] | None,
        search: Search,
        *,
        after: tuple[Any, AdapterKey, int] | None,
        limit: int,
    ) -> list[Version]:
        # Joined for its conditions; the relationship's own loading of the adapter stands beside it.
        query = select(VersionRow).join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
        query = query.options(selectinload(VersionRow.files)).limit(limit)
        if not search.show_deleted:
            query = query.where(VersionRow.delete_time.is_(None), AdapterRow.delete_time.is_(None))
        if search.where is not None:
            query = query.where(of_versions(search.where))
        order = search.order
        with self._read() as session:
            if isinstance(among, AdapterKey):
                query = query.where(VersionRow.adapter_id == adapter_row(session, among).id)
            elif among is not None:
                query = query.where(AdapterRow.namespace.in_(among))
            ties: tuple[Any, ...] = (AdapterRow.namespace, AdapterRow.name, VersionRow.number)
            column = order_of_versions(order)
            if order.field == "metrics":
                query = query.where(column.is_not(None))
            if isinstance(among, AdapterKey):
                ties = (VersionRow.number,)
                column = None if order.field == "number" else column
            query = in_order(query, column, ties, order.descending, after)
            return [rows.to_version(row) for row in session.scalars(query)]

    def list_versions(self, key: AdapterKey, *, after: int | None, limit: int) -> list[Version]:
        with self._read() as session:
            adapter = adapter_row(session, key)
            query = select(VersionRow).where(VersionRow.adapter_id == adapter.id)
            query = query.options(selectinload(VersionRow.files))
            query = query.where(VersionRow.delete_time.is_(None))
            if after is not None:
                query = query.where(VersionRow.number < after)
            query = query.order_by(VersionRow.number.desc()).limit(limit)
            return [rows.to_version(row) for row in session.scalars(query)]
