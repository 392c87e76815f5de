"""The store's verbs over bases."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from lorry_registry.entities import Base, LinearModule
from lorry_registry.errors import FailedPrecondition
from lorry_registry.sql import rows
from lorry_registry.sql.lookups import base_row, now_utc
from lorry_registry.sql.models import BaseRow
from lorry_registry.sql.transactions import Transactions


class BaseVerbs(Transactions):
    """Known bases; see `store.Store`."""

    def put_base(self, base: Base) -> Base:
        try:
            return self._put_base(base)
        except IntegrityError:
            # Another process made the same base known in between: now it is announced again.
            return self._put_base(base)

    def _put_base(self, base: Base) -> Base:
        with self._write() as session:
            row = session.scalar(
                select(BaseRow).where(BaseRow.fingerprint == base.fingerprint).with_for_update()
            )
            if row is None:
                row = BaseRow(
                    fingerprint=base.fingerprint,
                    display_name=base.display_name,
                    architecture=base.architecture,
                    quantization=base.quantization,
                    modules=[[m.path, m.in_features, m.out_features] for m in base.modules],
                    parameters=_parameters(base),
                    max_rank=base.max_rank,
                    context_length=base.context_length,
                    create_time=now_utc(),
                )
                session.add(row)
            else:
                known = rows.to_base(row)
                _check_same_modules(known, base)
                if not known.parameters:
                    row.parameters = _parameters(base)
                elif base.parameters:
                    _check_same_parameters(known, base)
                row.display_name = base.display_name
                row.max_rank = max(row.max_rank, base.max_rank)
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


def _check_same_modules(known: Base, announced: Base) -> None:
    """What versions were checked against stays true: whatever is announced, a fingerprint's modules never change."""
    before = {module.path: module for module in known.modules}
    after = {module.path: module for module in announced.modules}
    if before == after:
        return
    path = next(path for path in sorted({*before, *after}) if before.get(path) != after.get(path))
    raise FailedPrecondition(
        f"base {known.fingerprint} is known with other modules: {path!r} was {_size(before.get(path))} and is now "
        f"{_size(after.get(path))}. A fingerprint's modules never change: announce this base with a fingerprint "
        "of its own",
        reason="BASE_CONFLICT",
        base=known.fingerprint,
        module=path,
    )


def _check_same_parameters(known: Base, announced: Base) -> None:
    before = {parameter.path: parameter for parameter in known.parameters}
    after = {parameter.path: parameter for parameter in announced.parameters}
    if before != after:
        path = next(
            path for path in sorted({*before, *after}) if before.get(path) != after.get(path)
        )
        raise FailedPrecondition(
            f"base {known.fingerprint} is known with other parameters: {path!r} differs. A fingerprint's parameters "
            "never change: announce this base with a fingerprint of its own",
            reason="BASE_CONFLICT",
            base=known.fingerprint,
            parameter=path,
        )


def _parameters(base: Base) -> list[list[object]] | None:
    return [[each.path, list(each.shape), each.tied_to] for each in base.parameters] or None


def _size(module: LinearModule | None) -> str:
    return "absent" if module is None else f"{module.in_features} → {module.out_features}"
