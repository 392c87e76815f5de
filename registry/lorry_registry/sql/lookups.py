"""Finding rows within a transaction, with what is said where there are none, and the etags that guard them."""

import secrets
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorry_registry.entities import AdapterKey
from lorry_registry.errors import Aborted, NotFound
from lorry_registry.sql import rows
from lorry_registry.sql.models import AdapterRow, AliasRow, BaseRow, VersionRow


def adapter_row(
    session: Session, key: AdapterKey, *, lock: bool = False, deleted: bool = False
) -> AdapterRow:
    """`deleted`: whether one that is deleted will do as well."""
    query = select(AdapterRow).where(
        AdapterRow.namespace == key.namespace, AdapterRow.name == key.adapter_id
    )
    if lock:
        query = query.with_for_update()  # SQLite, which has no row locks, leaves it out
    row = session.scalar(query)
    if row is None:
        raise NotFound(
            f"there is no adapter {key}: list the adapters, or create it first",
            reason="ADAPTER_NOT_FOUND",
            adapter=key,
        )
    if row.delete_time is not None and not deleted:
        raise NotFound(
            f"adapter {key} is deleted: `lorry adapters undelete {key}` brings it back until {row.purge_time:%Y-%m-%d}",
            reason="ADAPTER_DELETED",
            adapter=key,
        )
    return row


def lock_adapter(session: Session, key: AdapterKey, *, deleted: bool = False) -> AdapterRow:
    return adapter_row(session, key, lock=True, deleted=deleted)


def version_row(
    session: Session, adapter: AdapterRow, number: int, *, deleted: bool = False
) -> VersionRow:
    """`deleted`: whether one that is deleted will do as well."""
    row = session.scalar(
        select(VersionRow).where(VersionRow.adapter_id == adapter.id, VersionRow.number == number)
    )
    if row is None:
        key = rows.to_key(adapter)
        newest = adapter.latest_version
        raise NotFound(
            f"adapter {key} has no version {number}: "
            + (f"the newest is {newest}" if newest else "nothing was published to it yet"),
            reason="VERSION_NOT_FOUND",
            adapter=key,
            version=number,
        )
    if not deleted:
        check_not_deleted(rows.to_key(adapter), row)
    return row


def check_not_deleted(key: AdapterKey, row: VersionRow) -> None:
    if row.delete_time is not None:
        raise NotFound(
            f"version {key}:{row.number} is deleted: `lorry adapters undelete {key}:{row.number}` brings it back until "
            f"{row.purge_time:%Y-%m-%d}",
            reason="VERSION_DELETED",
            adapter=key,
            version=row.number,
        )


def find_alias(session: Session, adapter: AdapterRow, alias_id: str) -> AliasRow | None:
    return session.scalar(
        select(AliasRow).where(AliasRow.adapter_id == adapter.id, AliasRow.name == alias_id)
    )


def alias_row(session: Session, adapter: AdapterRow, alias_id: str) -> AliasRow:
    row = find_alias(session, adapter, alias_id)
    if row is None:
        names = session.scalars(
            select(AliasRow.name)
            .where(AliasRow.adapter_id == adapter.id)
            .order_by(AliasRow.name)
            .limit(10)
        ).all()
        key = rows.to_key(adapter)
        raise NotFound(
            f"adapter {key} has no alias {alias_id!r}: "
            + (f"it has {', '.join(names)}" if names else "set it first"),
            reason="ALIAS_NOT_FOUND",
            adapter=key,
            alias=alias_id,
        )
    return row


def base_row(session: Session, fingerprint: str) -> BaseRow:
    row = session.scalar(select(BaseRow).where(BaseRow.fingerprint == fingerprint))
    if row is None:
        raise NotFound(
            f"there is no base {fingerprint}: a server makes its base known when it starts",
            reason="BASE_NOT_FOUND",
            fingerprint=fingerprint,
        )
    return row


def check_etag(current: str, sent: str, what: str) -> None:
    if sent and sent != current:
        raise stale_etag(what, "it was changed since")


def stale_etag(what: str, how: str) -> Aborted:
    return Aborted(
        f"the etag sent for {what} is stale, {how}: read it again, then retry",
        reason="ETAG_MISMATCH",
        resource=what,
    )


def new_etag() -> str:
    # Random rather than counted: an alias deleted and made anew must not accept the old one's etag.
    return secrets.token_hex(8)


def now_utc() -> datetime:
    return datetime.now(UTC)
