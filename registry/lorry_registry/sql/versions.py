"""The store's verbs over versions: added one after the other; their content never changes."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from lorry_registry.entities import (
    AdapterKey,
    AdapterSpec,
    Deprecation,
    File,
    Lineage,
    Version,
)
from lorry_registry.errors import NotFound
from lorry_registry.events import EventKind
from lorry_registry.sql import rows
from lorry_registry.sql.event_log import record
from lorry_registry.sql.lookups import (
    adapter_row,
    lock_adapter,
    now_utc,
    version_row,
)
from lorry_registry.sql.models import (
    VersionFileRow,
    VersionRow,
)
from lorry_registry.sql.namespaces import check_room
from lorry_registry.sql.transactions import Transactions


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
    ) -> Version:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            same = session.scalar(
                select(VersionRow).where(
                    VersionRow.adapter_id == adapter.id, VersionRow.digest == digest
                )
            )
            if same is not None:
                return rows.to_version(same)
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
            _record(session, EventKind.VERSION_CREATED, key, row)
            return rows.to_version(row)

    def set_deprecation(
        self, key: AdapterKey, number: int, deprecation: Deprecation | None, *, why: str = ""
    ) -> Version:
        with self._write() as session:
            row = version_row(session, lock_adapter(session, key), number)
            row.deprecation_reason = None if deprecation is None else deprecation.reason
            row.replacement = "" if deprecation is None else deprecation.replacement
            session.flush()
            kind, said = EventKind.VERSION_UNDEPRECATED, why
            if deprecation is not None:
                kind, said = EventKind.VERSION_DEPRECATED, deprecation.reason
            _record(session, kind, key, row, said)
            return rows.to_version(row)

    def set_block(
        self, key: AdapterKey, number: int, reason: str | None, *, why: str = ""
    ) -> Version:
        with self._write() as session:
            row = version_row(session, lock_adapter(session, key), number)
            row.block_reason = reason
            session.flush()
            kind, said = EventKind.VERSION_UNBLOCKED, why
            if reason is not None:
                kind, said = EventKind.VERSION_BLOCKED, reason
            _record(session, kind, key, row, said)
            return rows.to_version(row)

    def get_version(self, key: AdapterKey, number: int) -> Version:
        with self._read() as session:
            return rows.to_version(version_row(session, adapter_row(session, key), number))

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
            return rows.to_version(row)

    def list_versions(self, key: AdapterKey, *, after: int | None, limit: int) -> list[Version]:
        with self._read() as session:
            adapter = adapter_row(session, key)
            query = select(VersionRow).where(VersionRow.adapter_id == adapter.id)
            query = query.options(selectinload(VersionRow.files))
            if after is not None:
                query = query.where(VersionRow.number < after)
            query = query.order_by(VersionRow.number.desc()).limit(limit)
            return [rows.to_version(row) for row in session.scalars(query)]


def _record(
    session: Session, kind: EventKind, key: AdapterKey, row: VersionRow, why: str = ""
) -> None:
    record(session, kind, key, version=row.number, digest=row.digest, why=why)
