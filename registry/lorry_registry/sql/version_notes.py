"""The store's verbs over what is said of a version since it was published: labels, evaluations, deprecation, block."""

from collections.abc import Mapping

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lorry_registry.entities import AdapterKey, Dataset, Deprecation, Evaluation, Version
from lorry_registry.errors import ResourceExhausted
from lorry_registry.events import EventKind
from lorry_registry.limits import MAX_EVALUATIONS
from lorry_registry.principal import current_principal
from lorry_registry.sql import rows
from lorry_registry.sql.event_log import record
from lorry_registry.sql.lookups import (
    adapter_row,
    check_etag,
    lock_adapter,
    new_etag,
    now_utc,
    version_row,
)
from lorry_registry.sql.models import EvaluationRow, VersionLabelRow, VersionRow
from lorry_registry.sql.transactions import Transactions


class VersionNoteVerbs(Transactions):
    """See `store.Store`."""

    def update_version(
        self,
        key: AdapterKey,
        number: int,
        *,
        description: str | None,
        labels: Mapping[str, str] | None,
        annotations: Mapping[str, str] | None,
        etag: str,
    ) -> Version:
        with self._write() as session:
            row = version_row(session, lock_adapter(session, key), number)
            check_etag(row.etag, etag, f"version {key}:{number}")
            if description is not None:
                row.description = description
            if annotations is not None:
                row.annotations = dict(annotations)
            if labels is not None:
                session.execute(delete(VersionLabelRow).where(VersionLabelRow.version_id == row.id))
                session.expire(row, ["labels"])
                session.add_all(
                    VersionLabelRow(version_id=row.id, key=k, value=v) for k, v in labels.items()
                )
            row.etag = new_etag()
            return _said(session, EventKind.VERSION_UPDATED, key, row)

    def set_deprecation(
        self, key: AdapterKey, number: int, deprecation: Deprecation | None, *, why: str = ""
    ) -> Version:
        with self._write() as session:
            row = version_row(session, lock_adapter(session, key), number)
            row.deprecation_reason = None if deprecation is None else deprecation.reason
            row.replacement = "" if deprecation is None else deprecation.replacement
            kind = EventKind.VERSION_UNDEPRECATED
            if deprecation is not None:
                kind, why = EventKind.VERSION_DEPRECATED, deprecation.reason
            return _said(session, kind, key, row, why)

    def set_block(
        self, key: AdapterKey, number: int, reason: str | None, *, why: str = ""
    ) -> Version:
        with self._write() as session:
            row = version_row(session, lock_adapter(session, key), number)
            row.block_reason = reason
            kind = EventKind.VERSION_UNBLOCKED
            if reason is not None:
                kind, why = EventKind.VERSION_BLOCKED, reason
            return _said(session, kind, key, row, why)

    def add_evaluation(
        self,
        key: AdapterKey,
        number: int,
        *,
        title: str,
        metrics: Mapping[str, float],
        dataset: Dataset,
        description: str,
    ) -> Evaluation:
        with self._write() as session:
            version = version_row(session, lock_adapter(session, key), number)
            last = session.scalar(
                select(func.max(EvaluationRow.number)).where(EvaluationRow.version_id == version.id)
            )
            if (last or 0) >= MAX_EVALUATIONS:
                raise ResourceExhausted(
                    f"version {key}:{number} has {last} evaluations, and no more than {MAX_EVALUATIONS} are kept",
                    reason="TOO_MANY_EVALUATIONS",
                    version=f"{key}:{number}",
                )
            row = EvaluationRow(
                version=version,
                number=(last or 0) + 1,
                title=title,
                metrics=dict(metrics),
                dataset=rows.dataset_to_json(dataset),
                description=description,
                principal=current_principal.get(),
                create_time=now_utc(),
            )
            session.add(row)
            _said(session, EventKind.VERSION_UPDATED, key, version, title)
            return rows.to_evaluation(row)

    def list_evaluations(
        self, key: AdapterKey, number: int, *, after: int | None, limit: int
    ) -> list[Evaluation]:
        with self._read() as session:
            version = version_row(session, adapter_row(session, key), number)
            query = select(EvaluationRow).where(EvaluationRow.version_id == version.id)
            if after is not None:
                query = query.where(EvaluationRow.number < after)
            query = query.order_by(EvaluationRow.number.desc()).limit(limit)
            return [rows.to_evaluation(row) for row in session.scalars(query)]


def _said(
    session: Session, kind: EventKind, key: AdapterKey, row: VersionRow, why: str = ""
) -> Version:
    """Something is said of the version from now on."""
    row.update_time = row.adapter.update_time = now_utc()
    session.flush()
    record(session, kind, key, version=row.number, digest=row.digest, why=why)
    return rows.to_version(row)
