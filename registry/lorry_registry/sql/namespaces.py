"""The store's verbs over namespaces, and what their quotas let in."""

from collections.abc import Collection

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lorry_registry.access.entities import Namespace, Quotas
from lorry_registry.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from lorry_registry.references import DEFAULT_NAMESPACE
from lorry_registry.sql.lookups import check_etag, new_etag, now_utc
from lorry_registry.sql.models import AdapterRow, NamespaceRow, VersionFileRow, VersionRow
from lorry_registry.sql.transactions import Transactions


class NamespaceVerbs(Transactions):
    """Namespaces by name; see `access.store.AccessStore`."""

    def create_namespace(self, name: str, *, description: str, quotas: Quotas) -> Namespace:
        try:
            with self._write() as session:
                row = _new_row(name, description, quotas)
                session.add(row)
                session.flush()
                return _to_namespace(row)
        except IntegrityError as error:
            raise AlreadyExists(
                f"namespace {name} exists already: update it instead",
                reason="NAMESPACE_EXISTS",
                namespace=name,
            ) from error

    def get_namespace(self, name: str) -> Namespace:
        with self._read() as session:
            row = _find(session, name)
            if row is not None:
                return _to_namespace(row)
            _check_named(session, name)
            return Namespace(name)

    def get_quotas(self, name: str) -> Quotas:
        with self._read() as session:
            row = _find(session, name)
            return Quotas() if row is None else _to_namespace(row).quotas

    def list_namespaces(
        self, among: Collection[str] | None, *, after: str | None, limit: int
    ) -> list[Namespace]:
        with self._read() as session:
            created = select(NamespaceRow.name)
            named = select(AdapterRow.namespace)
            if after is not None:
                created = created.where(NamespaceRow.name > after)
                named = named.where(AdapterRow.namespace > after)
            if among is not None:
                created = created.where(NamespaceRow.name.in_(among))
                named = named.where(AdapterRow.namespace.in_(among))
            both = created.union(named).subquery()
            names = session.scalars(select(both.c.name).order_by(both.c.name).limit(limit)).all()
            rows = session.scalars(select(NamespaceRow).where(NamespaceRow.name.in_(names)))
            known = {row.name: _to_namespace(row) for row in rows}
            return [known.get(name) or Namespace(name) for name in names]

    def update_namespace(
        self, name: str, *, description: str | None, quotas: Quotas | None, etag: str
    ) -> Namespace:
        with self._write() as session:
            row = _find(session, name, lock=True)
            if row is None:
                _check_named(session, name)
                row = _new_row(name, "", Quotas())
                session.add(row)
            else:
                check_etag(row.etag, etag, f"namespace {name}")
            if description is not None:
                row.description = description
            if quotas is not None:
                _set_quotas(row, quotas)
            row.etag = new_etag()
            session.flush()
            return _to_namespace(row)

    def delete_namespace(self, name: str) -> None:
        with self._write() as session:
            row = _find(session, name, lock=True)
            if _has_adapters(session, name):
                raise FailedPrecondition(
                    f"namespace {name} has adapters: delete or move them first",
                    reason="NAMESPACE_HAS_ADAPTERS",
                    namespace=name,
                )
            if row is None:
                raise _not_found(name)
            session.execute(delete(NamespaceRow).where(NamespaceRow.name == name))


def check_room(
    session: Session, namespace: str, *, adapters: int = 0, versions: int = 0, size_bytes: int = 0
) -> None:
    """Locks the namespace's quotas until the transaction ends, so that what is let in together fits together.

    What is held is counted rather than kept: a number of its own could drift, and under a quota it is small.

    Raises:
        ResourceExhausted: `QUOTA_EXCEEDED`, so many more would be beyond a quota.
    """
    row = _find(session, namespace, lock=True)
    if row is None:
        return
    in_namespace = AdapterRow.namespace == namespace
    if adapters and row.max_adapters:
        count = select(func.count()).select_from(AdapterRow).where(in_namespace)
        _check(namespace, "adapters", session.scalar(count) or 0, adapters, row.max_adapters)
    if versions and row.max_versions:
        count = select(func.count()).select_from(VersionRow).join(VersionRow.adapter)
        held = session.scalar(count.where(in_namespace)) or 0
        _check(namespace, "versions", held, versions, row.max_versions)
    if size_bytes and row.max_bytes:
        total = (
            select(func.coalesce(func.sum(VersionFileRow.size_bytes), 0))
            .join(VersionRow, VersionRow.id == VersionFileRow.version_id)
            .join(AdapterRow, AdapterRow.id == VersionRow.adapter_id)
        )
        held = int(session.scalar(total.where(in_namespace)) or 0)
        _check(namespace, "bytes", held, size_bytes, row.max_bytes)


def _check(namespace: str, what: str, held: int, more: int, quota: int) -> None:
    if held + more > quota:
        raise ResourceExhausted(
            f"namespace {namespace} holds {held} {what} of at most {quota}, and {more} more do not fit: delete what is "
            "not needed, or ask an administrator for a larger quota",
            reason="QUOTA_EXCEEDED",
            namespace=namespace,
            quota=f"max_{what}",
            limit=quota,
            used=held,
        )


def _find(session: Session, name: str, *, lock: bool = False) -> NamespaceRow | None:
    query = select(NamespaceRow).where(NamespaceRow.name == name)
    return session.scalar(query.with_for_update() if lock else query)


def _has_adapters(session: Session, name: str) -> bool:
    return bool(session.scalar(select(AdapterRow.id).where(AdapterRow.namespace == name).limit(1)))


def _check_named(session: Session, name: str) -> None:
    if name != DEFAULT_NAMESPACE and not _has_adapters(session, name):
        raise _not_found(name)


def _not_found(name: str) -> NotFound:
    return NotFound(
        f"there is no namespace {name}: create it, or an adapter in it",
        reason="NAMESPACE_NOT_FOUND",
        namespace=name,
    )


def _new_row(name: str, description: str, quotas: Quotas) -> NamespaceRow:
    row = NamespaceRow(name=name, description=description, create_time=now_utc(), etag=new_etag())
    _set_quotas(row, quotas)
    return row


def _set_quotas(row: NamespaceRow, quotas: Quotas) -> None:
    for field in Quotas.__slots__:
        setattr(row, field, getattr(quotas, field))


def _to_namespace(row: NamespaceRow) -> Namespace:
    quotas = Quotas(**{field: getattr(row, field) for field in Quotas.__slots__})
    return Namespace(row.name, row.description, quotas, row.create_time, row.etag)
