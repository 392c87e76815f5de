"""The store's verbs over bases."""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from lorry_registry.entities import (
    Base,
)
from lorry_registry.sql import rows
from lorry_registry.sql.lookups import (
    base_row,
    now_utc,
)
from lorry_registry.sql.models import (
    BaseRow,
)
from lorry_registry.sql.transactions import Transactions


class BaseVerbs(Transactions):
    """Known bases; see `store.Store`."""

    def put_base(self, base: Base) -> Base:
        values = {
            "display_name": base.display_name,
            "architecture": base.architecture,
            "quantization": base.quantization,
            "modules": [[m.path, m.in_features, m.out_features] for m in base.modules],
            "max_rank": base.max_rank,
            "context_length": base.context_length,
        }
        try:
            return self._put_base(base.fingerprint, values)
        except IntegrityError:
            # Another process made the same base known in between: now it is an update.
            return self._put_base(base.fingerprint, values)

    def _put_base(self, fingerprint: str, values: Mapping[str, object]) -> Base:
        with self._write() as session:
            row = session.scalar(select(BaseRow).where(BaseRow.fingerprint == fingerprint))
            if row is None:
                row = BaseRow(fingerprint=fingerprint, create_time=now_utc())
                session.add(row)
            for column, value in values.items():
                setattr(row, column, value)
            session.flush()
            return rows.to_base(row)

    def get_base(self, fingerprint: str) -> Base:
        with self._read() as session:
            return rows.to_base(base_row(session, fingerprint))

    def list_bases(self, *, after: str | None, limit: int) -> list[Base]:
        with self._read() as session:
            query = select(BaseRow).order_by(BaseRow.id.desc()).limit(limit)
            if after is not None:
                query = query.where(BaseRow.id < base_row(session, after).id)
            return [rows.to_base(row) for row in session.scalars(query)]
