"""The store's verbs over uploads: which blobs a principal brought, and whether anybody else may see one."""

from collections.abc import Collection, Sequence
from contextlib import suppress

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from lorry_registry.sql.lookups import now_utc
from lorry_registry.sql.models import (
    AdapterRow,
    NamespaceRow,
    UploadRow,
    VersionFileRow,
    VersionRow,
)
from lorry_registry.sql.transactions import Transactions


class UploadVerbs(Transactions):
    """See `tenant_blobs.UploadStore`."""

    def sees_blob(self, digest: str, *, among: Collection[str], principal: str) -> bool:
        brought = select(UploadRow.digest).where(
            UploadRow.principal == principal, UploadRow.digest == digest
        )
        named = (
            select(VersionFileRow.digest)
            .join(VersionRow, VersionRow.id == VersionFileRow.version_id)
            .join(AdapterRow, AdapterRow.id == VersionRow.adapter_id)
            .where(VersionFileRow.digest == digest, AdapterRow.namespace.in_(among))
        )
        with self._read() as session:
            return any(session.scalar(query.limit(1)) is not None for query in (brought, named))

    def add_upload(self, principal: str, digest: str, *, size_bytes: int) -> None:
        row = UploadRow(
            principal=principal, digest=digest, size_bytes=size_bytes, create_time=now_utc()
        )
        # Two that bring the same at once both find no row: the second's is there already.
        with suppress(IntegrityError), self._write() as session:
            session.merge(row)

    def uploaded_bytes(self, principal: str) -> int:
        total = select(func.coalesce(func.sum(UploadRow.size_bytes), 0))
        with self._read() as session:
            return int(session.scalar(total.where(UploadRow.principal == principal)) or 0)

    def forget_uploads(self, principal: str, digests: Sequence[str]) -> None:
        with self._write() as session:
            session.execute(
                delete(UploadRow).where(
                    UploadRow.principal == principal, UploadRow.digest.in_(digests)
                )
            )

    def max_upload_bytes(self, among: Collection[str]) -> int:
        bounds = select(NamespaceRow.max_bytes).where(
            NamespaceRow.name.in_(among), NamespaceRow.max_bytes > 0
        )
        with self._read() as session:
            found = session.scalars(bounds).all()
        return max(found) if len(found) == len(among) and found else 0
