"""Filters and orders as SQL: every value a bound parameter, every condition true or false and never NULL.

Only what SQLite and PostgreSQL share, and case counts on both.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, and_, exists, func, not_, or_, true, tuple_

from lorry_registry.entities import AdapterKey, VersionState
from lorry_registry.filters import And, Compare, Expression, Not, Or, Value, wildcard
from lorry_registry.searches import VERSION_OWN_FIELDS, Order
from lorry_registry.sql.models import (
    AdapterLabelRow,
    AdapterRow,
    VersionLabelRow,
    VersionRow,
)

Condition = ColumnElement[bool]
T = TypeVar("T")

_ADAPTER_COLUMNS: dict[str, Any] = {
    "name": AdapterRow.name,
    "adapter": AdapterRow.name,
    "namespace": AdapterRow.namespace,
    "description": AdapterRow.description,
    "latest_version": AdapterRow.latest_version,
    "create_time": AdapterRow.create_time,
    "update_time": AdapterRow.update_time,
}
_VERSION_COLUMNS: dict[str, Any] = {
    "number": VersionRow.number,
    "adapter": AdapterRow.name,
    "namespace": AdapterRow.namespace,
    "description": VersionRow.description,
    "create_time": VersionRow.create_time,
    "base": VersionRow.base_fingerprint,
    "rank": VersionRow.max_rank,
    "modules": VersionRow.module_count,
    "parameters": VersionRow.parameter_count,
    "size_bytes": VersionRow.size_bytes,
    "peft_type": VersionRow.peft_type,
    "digest": VersionRow.digest,
}


def of_adapters(expression: Expression) -> Condition:
    """What is asked of versions holds of some version; what stands side by side in one AND, of the same one."""
    match expression:
        case And(terms):
            own = [of_adapters(term) for term in terms if not _asks_a_version(term)]
            asked = [of_versions(term) for term in terms if _asks_a_version(term)]
            return and_(*own, _some_version(and_(*asked)) if asked else true())
        case Or(terms):
            return or_(*(of_adapters(term) for term in terms))
        case Not(term):
            return not_(of_adapters(term))
        case Compare() as compare if _asks_a_version(compare):
            return _some_version(of_versions(compare))
        case Compare("labels"):
            return _label(expression, AdapterLabelRow, AdapterLabelRow.adapter_id == AdapterRow.id)
        case Compare(field, operator, value):
            return _compared(_ADAPTER_COLUMNS[field], operator, value)


def of_versions(expression: Expression) -> Condition:
    """Of the rows of versions, each joined with its adapter's."""
    match expression:
        case And(terms):
            return and_(*map(of_versions, terms))
        case Or(terms):
            return or_(*map(of_versions, terms))
        case Not(term):
            return not_(of_versions(term))
        case Compare("labels"):
            return _label(expression, VersionLabelRow, VersionLabelRow.version_id == VersionRow.id)
        case Compare("state", operator, value):
            return _state(str(value)) if operator == "=" else not_(_state(str(value)))
        case Compare("metrics", operator, value, key):
            column = _metric(key or str(value))
            there: Condition = column.is_not(None)
            if operator == ":":
                return there
            if operator == "!=":
                return or_(not_(there), _compared(column, operator, value))
            return and_(there, _compared(column, operator, value))
        case Compare(field, operator, value):
            return _compared(_VERSION_COLUMNS[field], operator, value)


def order_of_adapters(order: Order) -> Any:
    """The column that adapters are ordered by."""
    return _ADAPTER_COLUMNS[order.field]


def order_of_versions(order: Order) -> Any:
    """The column that versions are ordered by; NULL of those that have no such metric."""
    return _metric(order.key) if order.field == "metrics" else _VERSION_COLUMNS[order.field]


def in_order(
    query: Select[T],
    column: Any,
    ties: tuple[Any, ...],
    descending: bool,
    after: tuple[Any, AdapterKey] | tuple[Any, AdapterKey, int] | None,
) -> Select[T]:
    """Ordered by a column and, where that is equal, by `ties`; the rows behind `after` alone.

    Without a column, by the ties alone, in the order's direction. With one, the ties come in ascending order whatever
    the order's direction. Never an offset: rows that come and go between two pages neither repeat nor hide others.
    """
    place = None
    if after is not None:
        key = after[1]
        place = (key.namespace, key.adapter_id, *after[2:])[-len(ties) :]
    if column is None:
        query = query.order_by(*(tie.desc() if descending else tie for tie in ties))
        if place is None:
            return query
        return query.where(tuple_(*ties) < place if descending else tuple_(*ties) > place)
    query = query.order_by(column.desc() if descending else column, *ties)
    if after is None or place is None:
        return query
    value = after[0]
    # The first condition says nothing new, but lets an index begin at the right place.
    near, beyond = (
        (column <= value, column < value) if descending else (column >= value, column > value)
    )
    return query.where(near, or_(beyond, and_(column == value, tuple_(*ties) > place)))


def _asks_a_version(expression: Expression) -> bool:
    match expression:
        case Compare(field):
            return field in VERSION_OWN_FIELDS
        case Or(terms) | And(terms):
            return all(map(_asks_a_version, terms))
        case _:  # "no version has" is not "some version has not"
            return False


def _some_version(condition: Condition) -> Condition:
    there = VersionRow.delete_time.is_(None)
    return exists().where(VersionRow.adapter_id == AdapterRow.id, there, condition)


def _metric(key: str) -> Any:
    return VersionRow.lineage["metrics"][key].as_float()


def _state(state: str) -> Condition:
    blocked = VersionRow.block_reason.is_not(None)
    deprecated = VersionRow.deprecation_reason.is_not(None)
    if state == VersionState.BLOCKED:
        return blocked
    return and_(not_(blocked), deprecated if state == VersionState.DEPRECATED else not_(deprecated))


def _label(compare: Compare, table: Any, belongs: Condition) -> Condition:
    """Without a label of that key, `!=` holds and everything else does not."""
    key = compare.key or str(compare.value)
    has = [belongs, table.key == key]
    if compare.operator == ":" and (not compare.key or compare.value == "*"):
        return exists().where(*has)
    operator = "=" if compare.operator == "!=" else compare.operator
    found = exists().where(*has, _compared(table.value, operator, compare.value))
    return not_(found) if compare.operator == "!=" else found


def _compared(column: Any, operator: str, value: Value) -> Condition:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        value = int(value)  # an index on whole numbers is of use then
    if isinstance(value, str) and operator == ":":
        return _contains(column, value)
    if isinstance(value, str) and operator in ("=", "!="):
        found = _like(column, value)
        return found if operator == "=" else not_(found)
    compare: Callable[[Any, Any], Any] = _COMPARISONS[operator]
    return compare(column, value)  # type: ignore[no-any-return]


_COMPARISONS: dict[str, Callable[[Any, str | float | datetime], Any]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


def _like(column: Any, value: str) -> Condition:
    """Without LIKE, in which SQLite does not see the case, and whose wildcards a value may hold."""
    before, text, after = wildcard(value)
    if before and after:
        return _contains(column, text)
    if before:
        return and_(
            func.length(column) >= len(text),
            func.substr(column, func.length(column) - len(text) + 1) == text,
        )
    if after:
        return and_(column >= text, func.substr(column, 1, len(text)) == text)
    return column == text  # type: ignore[no-any-return]


def _contains(column: Any, text: str) -> Condition:
    return true() if not text else func.replace(column, text, "") != column
