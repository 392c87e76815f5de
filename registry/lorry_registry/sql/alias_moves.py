"""The history of aliases: every move written down in its own transaction, and what a rollback goes back to."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from lorry_registry.entities import AliasTarget
from lorry_registry.errors import FailedPrecondition, NotFound
from lorry_registry.principal import current_principal
from lorry_registry.sql import rows
from lorry_registry.sql.lookups import alias_row, now_utc
from lorry_registry.sql.models import AdapterRow, AliasMoveRow, VersionRow


def write_move(
    session: Session,
    adapter: AdapterRow,
    alias_id: str,
    *,
    before: Iterable[AliasTarget],
    after: Iterable[AliasTarget],
    why: str,
    restores: int = 0,
) -> AliasMoveRow:
    """Adds the next move. The adapter is locked, so that numbers have no gaps."""
    last = last_move(session, adapter, alias_id)
    row = AliasMoveRow(
        adapter=adapter,
        alias=alias_id,
        number=1 if last is None else last.number + 1,
        time=now_utc(),
        principal=current_principal.get(),
        why=why,
        before=rows.targets_to_json(before),
        after=rows.targets_to_json(after),
        restores=restores,
    )
    session.add(row)
    return row


def last_move(session: Session, adapter: AdapterRow, alias_id: str) -> AliasMoveRow | None:
    return session.scalar(_of(adapter, alias_id).order_by(AliasMoveRow.number.desc()).limit(1))


def moves_before(
    session: Session, adapter: AdapterRow, alias_id: str, after: int | None, limit: int
) -> list[AliasMoveRow]:
    """Newest first. Raises NotFound where the alias never moved and is not there."""
    query = _of(adapter, alias_id).order_by(AliasMoveRow.number.desc()).limit(limit)
    if after is not None:
        query = query.where(AliasMoveRow.number < after)
    found = list(session.scalars(query))
    if not found and after is None:
        alias_row(session, adapter, alias_id)
    return found


def move_to_restore(
    session: Session, adapter: AdapterRow, alias_id: str, number: int
) -> AliasMoveRow:
    """The move, itself no rollback, whose outcome a rollback to `number` brings back.

    For 0, the one before the move that now holds: where that is a rollback itself, the one before what it brought back,
    so that one rollback after the other goes further and further back.
    """
    last = last_move(session, adapter, alias_id)
    if last is None:
        alias_row(session, adapter, alias_id)  # which tells which aliases there are
        raise _nothing(adapter, alias_id, "its moves were not kept then")
    wanted = number or (last.restores or last.number) - 1
    if wanted == 0:
        raise _nothing(adapter, alias_id, "it is what it was at first")
    move = session.scalar(_of(adapter, alias_id).where(AliasMoveRow.number == wanted))
    if move is None:
        raise NotFound(
            f"alias {rows.to_key(adapter)}@{alias_id} has no move {number}: its moves go from 1 to {last.number}",
            reason="ALIAS_MOVE_NOT_FOUND",
            alias=f"{rows.to_key(adapter)}@{alias_id}",
            move=number,
        )
    if move.restores:
        move = session.scalars(
            _of(adapter, alias_id).where(AliasMoveRow.number == move.restores)
        ).one()
    if not move.after:
        raise _nothing(adapter, alias_id, f"move {move.number} deleted it")
    return move


def targets_of(session: Session, adapter: AdapterRow, move: AliasMoveRow) -> Sequence[AliasTarget]:
    """What the alias pointed at after `move`, by digest. Raises FailedPrecondition `ROLLBACK_TARGET_GONE`."""
    targets = rows.targets_from_json(move.after)
    for target in targets:
        there = session.scalar(
            select(VersionRow.number).where(
                VersionRow.adapter_id == adapter.id,
                VersionRow.digest == target.digest,
                VersionRow.delete_time.is_(None),
            )
        )
        if there is None:
            raise FailedPrecondition(
                f"alias {rows.to_key(adapter)}@{move.alias} pointed at version {target.version} "
                f"({target.digest}) after move {move.number}, and it is no longer there: choose another move",
                reason="ROLLBACK_TARGET_GONE",
                alias=f"{rows.to_key(adapter)}@{move.alias}",
                move=move.number,
                digest=target.digest,
            )
    return targets


def _of(adapter: AdapterRow, alias_id: str) -> Select[AliasMoveRow]:
    return select(AliasMoveRow).where(
        AliasMoveRow.adapter_id == adapter.id, AliasMoveRow.alias == alias_id
    )


def _nothing(adapter: AdapterRow, alias_id: str, why: str) -> FailedPrecondition:
    alias = f"{rows.to_key(adapter)}@{alias_id}"
    return FailedPrecondition(
        f"alias {alias} has nothing to go back to, {why}: set it, or name a move that left it pointing somewhere",
        reason="NOTHING_TO_ROLL_BACK",
        alias=alias,
    )
