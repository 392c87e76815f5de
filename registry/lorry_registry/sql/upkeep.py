"""The store's verbs for whoever looks after the blobs: which are in use, and deleting those that are not."""

from collections.abc import Callable, Sequence

from sqlalchemy import delete, select, text, tuple_
from sqlalchemy.orm import Session, selectinload

from lorry_registry.entities import Version
from lorry_registry.sql import rows
from lorry_registry.sql.models import UploadRow, VersionFileRow, VersionRow
from lorry_registry.sql.transactions import Transactions
from lorry_registry.upkeep.store import UsedFile

_BLOBS_LOCK = 0x626C6F62  # of PostgreSQL's advisory locks, the one over which blobs there are


def hold_blobs(session: Session) -> None:
    """No blob is collected until the transaction ends. SQLite's writers exclude each other anyway."""
    _lock(session, "pg_advisory_xact_lock_shared")


class UpkeepVerbs(Transactions):
    """Blobs in use; see `upkeep.store`."""

    def unused_blobs(self, digests: Sequence[str]) -> list[str]:
        with self._read() as session:
            return _unused(session, digests)

    def discard_blobs(
        self, digests: Sequence[str], delete_blob: Callable[[str], None]
    ) -> list[str]:
        with self._write() as session:
            _lock(session, "pg_advisory_xact_lock")
            unused = _unused(session, digests)
            for digest in unused:
                delete_blob(digest)
            # Who brought them has no more claim on them, and they count no more.
            session.execute(delete(UploadRow).where(UploadRow.digest.in_(unused)))
            return unused

    def used_files(self, after: tuple[str, int, str] | None, *, limit: int) -> list[UsedFile]:
        place = (VersionFileRow.digest, VersionFileRow.version_id, VersionFileRow.path)
        query = select(VersionFileRow, VersionRow).join(VersionRow).order_by(*place).limit(limit)
        if after is not None:
            # The first comparison lets an index find the place; the second is exact.
            query = query.where(VersionFileRow.digest >= after[0], tuple_(*place) > after)
        with self._read() as session:
            return [
                UsedFile(
                    digest=file.digest,
                    size_bytes=file.size_bytes,
                    key=rows.to_key(version.adapter),
                    number=version.number,
                    position=(file.digest, file.version_id, file.path),
                )
                for file, version in session.execute(query)
            ]

    def versions_after(self, after: int, *, limit: int) -> list[tuple[int, Version]]:
        query = select(VersionRow).where(VersionRow.id > after).order_by(VersionRow.id)
        query = query.options(selectinload(VersionRow.files)).limit(limit)
        with self._read() as session:
            return [(row.id, rows.to_version(row)) for row in session.scalars(query)]


def _unused(session: Session, digests: Sequence[str]) -> list[str]:
    used = set(
        session.scalars(
            select(VersionFileRow.digest).where(VersionFileRow.digest.in_(digests)).distinct()
        )
    )
    return [digest for digest in digests if digest not in used]


def _lock(session: Session, function: str) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT {function}(:key)"), {"key": _BLOBS_LOCK})
