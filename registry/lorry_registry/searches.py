"""What lists may be searched and ordered by: the fields of adapters, of versions and of events."""

from collections.abc import Mapping
from dataclasses import dataclass

from lorry_registry.entities import VersionState
from lorry_registry.errors import InvalidArgument
from lorry_registry.events import Event, EventKind
from lorry_registry.filters import Expression, Field, Kind, Value

_STATES = tuple(state.value for state in VersionState)

VERSION_OWN_FIELDS: Mapping[str, Field] = {
    "base": Field(Kind.DIGEST),
    "rank": Field(Kind.NUMBER),
    "modules": Field(Kind.NUMBER),
    "parameters": Field(Kind.NUMBER),
    "size_bytes": Field(Kind.NUMBER),
    "peft_type": Field(Kind.TEXT),
    "digest": Field(Kind.DIGEST),
    "state": Field(Kind.CHOICE, _STATES),
    "metrics": Field(Kind.NUMBERS),
}
"""Those that over adapters are asked of their versions: some version has them, and all of one AND the same one."""

ADAPTER_FIELDS: Mapping[str, Field] = {
    "name": Field(Kind.TEXT),
    "namespace": Field(Kind.TEXT),
    "description": Field(Kind.TEXT),
    "labels": Field(Kind.TEXTS),
    "latest_version": Field(Kind.NUMBER),
    "create_time": Field(Kind.TIME),
    "update_time": Field(Kind.TIME),
    **VERSION_OWN_FIELDS,
}

VERSION_FIELDS: Mapping[str, Field] = {
    "number": Field(Kind.NUMBER),
    "adapter": Field(Kind.TEXT),
    "namespace": Field(Kind.TEXT),
    "description": Field(Kind.TEXT),
    "labels": Field(Kind.TEXTS),
    "create_time": Field(Kind.TIME),
    **VERSION_OWN_FIELDS,
}

EVENT_FIELDS: Mapping[str, Field] = {
    "kind": Field(Kind.CHOICE, tuple(kind.value for kind in EventKind)),
    "namespace": Field(Kind.TEXT),
    "adapter": Field(Kind.TEXT),
    "alias": Field(Kind.TEXT),
    "version": Field(Kind.NUMBER),
    "principal": Field(Kind.TEXT),
}

ADAPTER_ORDERS = ("name", "create_time", "update_time", "latest_version")
VERSION_ORDERS = ("number", "create_time", "rank", "size_bytes", "parameters", "metrics.KEY")


@dataclass(frozen=True, slots=True)
class Order:
    """By a field, in one direction; what is equal comes in the order of names and numbers."""

    field: str
    descending: bool = False
    key: str = ""  # of a field that has one: metrics.exact


BY_NAME = Order("name")
NEWEST_FIRST = Order("create_time", descending=True)


@dataclass(frozen=True, slots=True)
class Search:
    """Which entities, in which order."""

    where: Expression | None
    order: Order
    show_deleted: bool = False


def parse_order(text: str, orders: tuple[str, ...], default: Order) -> Order:
    """Reads `field`, `field asc` or `field desc`. Raises InvalidArgument `ORDER_INVALID`."""
    if not text.strip():
        return default
    field, _, direction = text.strip().partition(" ")
    name, dot, key = field.partition(".")
    known = f"{name}.KEY" in orders if dot else name in orders
    if not known or (dot and not key) or direction.strip() not in ("", "asc", "desc"):
        raise InvalidArgument(
            f"order_by {text[:60]!r} cannot be read: write one of {', '.join(orders)}, with ' desc' behind it for "
            "the other direction",
            reason="ORDER_INVALID",
            order_by=text[:60],
        )
    return Order(name, direction.strip() == "desc", key)


def event_value(event: Event, field: str) -> Value:
    """A field of an event, for `filters.matches`."""
    return {
        "kind": event.kind.value,
        "namespace": event.key.namespace,
        "adapter": event.key.adapter_id,
        "alias": event.alias,
        "version": float(event.version),
        "principal": event.principal,
    }[field]
