"""The store's verbs over adapters."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload

from lorry_registry.entities import (
    Adapter,
    AdapterKey,
)
from lorry_registry.errors import AlreadyExists
from lorry_registry.events import EventKind
from lorry_registry.searches import Search
from lorry_registry.sql import rows
from lorry_registry.sql.conditions import in_order, of_adapters, order_of_adapters
from lorry_registry.sql.event_log import record
from lorry_registry.sql.lookups import (
    adapter_row,
    check_etag,
    lock_adapter,
    new_etag,
    now_utc,
)
from lorry_registry.sql.models import (
    AdapterLabelRow,
    AdapterRow,
)
from lorry_registry.sql.namespaces import check_room
from lorry_registry.sql.transactions import Transactions


class AdapterVerbs(Transactions):
    """Adapters by (namespace, id); see `store.Store`."""

    def create_adapter(
        self,
        key: AdapterKey,
        *,
        description: str,
        labels: Mapping[str, str],
        annotations: Mapping[str, str] | None = None,
    ) -> Adapter:
        now = now_utc()
        row = AdapterRow(
            namespace=key.namespace,
            name=key.adapter_id,
            description=description,
            latest_version=0,
            labels=[AdapterLabelRow(key=k, value=v) for k, v in labels.items()],
            create_time=now,
            update_time=now,
            etag=new_etag(),
            annotations=dict(annotations or {}),
        )
        try:
            with self._write() as session:
                check_room(session, key.namespace, adapters=1)
                session.add(row)
                session.flush()
                record(session, EventKind.ADAPTER_CREATED, key)
                return rows.to_adapter(row)
        except IntegrityError as error:
            raise AlreadyExists(
                f"adapter {key} exists already, if only deleted: choose another name, publish a version to it, or "
                "undelete or purge it",
                reason="ADAPTER_EXISTS",
                adapter=key,
            ) from error

    def get_adapter(self, key: AdapterKey) -> Adapter:
        with self._read() as session:
            return rows.to_adapter(adapter_row(session, key, deleted=True))

    def search_adapters(
        self,
        among: Collection[str] | None,
        search: Search,
        *,
        after: tuple[Any, AdapterKey] | None,
        limit: int,
    ) -> list[Adapter]:
        query = select(AdapterRow).options(selectinload(AdapterRow.labels)).limit(limit)
        if not search.show_deleted:
            query = query.where(AdapterRow.delete_time.is_(None))
        if among is not None:
            query = query.where(AdapterRow.namespace.in_(among))
        if search.where is not None:
            query = query.where(of_adapters(search.where))
        names = (AdapterRow.namespace, AdapterRow.name)
        if search.order.field == "name":
            query = in_order(query, None, names, search.order.descending, after)
        else:
            column = order_of_adapters(search.order)
            query = in_order(query, column, names, search.order.descending, after)
        with self._read() as session:
            return [rows.to_adapter(row) for row in session.scalars(query)]

    def update_adapter(
        self,
        key: AdapterKey,
        *,
        description: str | None,
        labels: Mapping[str, str] | None,
        annotations: Mapping[str, str] | None = None,
        etag: str,
    ) -> Adapter:
        with self._write() as session:
            row = lock_adapter(session, key)
            check_etag(row.etag, etag, f"adapter {key}")
            if description is not None:
                row.description = description
            if annotations is not None:
                row.annotations = dict(annotations)
            if labels is not None:
                session.execute(delete(AdapterLabelRow).where(AdapterLabelRow.adapter_id == row.id))
                session.expire(row, ["labels"])
                session.add_all(
                    AdapterLabelRow(adapter_id=row.id, key=k, value=v) for k, v in labels.items()
                )
            row.etag = new_etag()
            row.update_time = now_utc()
            session.flush()
            record(session, EventKind.ADAPTER_UPDATED, key)
            return rows.to_adapter(row)
