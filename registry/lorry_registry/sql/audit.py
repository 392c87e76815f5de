"""The store's verbs over the audit log: rows are added, and the database itself refuses to change or remove one."""

from collections.abc import Collection

from sqlalchemy import select

from lorry_registry.access.entities import AuditEvent
from lorry_registry.sql.models import AuditRow
from lorry_registry.sql.transactions import Transactions

_COLUMNS = ("time", "principal", "peer", "action", "namespace", "resource", "outcome", "reason")


class AuditVerbs(Transactions):
    """See `access.store.AccessStore`."""

    def add_audit_event(self, event: AuditEvent) -> None:
        with self._write() as session:
            session.add(AuditRow(**{column: getattr(event, column) for column in _COLUMNS}))

    def list_audit_events(
        self,
        among: Collection[str] | None,
        *,
        principal: str,
        after: int | None,
        limit: int,
    ) -> list[AuditEvent]:
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if among is not None:
            query = query.where(AuditRow.namespace.in_(among))
        if principal:
            query = query.where(AuditRow.principal == principal)
        if after is not None:
            query = query.where(AuditRow.id < after)
        with self._read() as session:
            return [
                AuditEvent(**{column: getattr(row, column) for column in _COLUMNS}, number=row.id)
                for row in session.scalars(query)
            ]
