"""Lists of adapters and of versions: filtered, ordered, and page by page from where the last one ended."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from lorry_registry.access.rights import Role, current_rights
from lorry_registry.entities import Adapter, AdapterKey, Version
from lorry_registry.errors import InvalidArgument
from lorry_registry.filters import parse_filter
from lorry_registry.paging import Page, clip_page_size, decode_token, make_page
from lorry_registry.searches import (
    ADAPTER_FIELDS,
    ADAPTER_ORDERS,
    BY_NAME,
    NEWEST_FIRST,
    VERSION_FIELDS,
    VERSION_ORDERS,
    Order,
    Search,
    parse_order,
)
from lorry_registry.store import Store

_BY_NUMBER = Order("number", descending=True)

_ADAPTER_VALUES: dict[str, Callable[[Adapter], Any]] = {
    "name": lambda adapter: "",  # the tie is broken by the name anyway
    "create_time": lambda adapter: adapter.create_time,
    "update_time": lambda adapter: adapter.update_time,
    "latest_version": lambda adapter: adapter.latest_version,
}
_VERSION_VALUES: dict[str, Callable[[Version], Any]] = {
    "number": lambda version: version.number,
    "create_time": lambda version: version.create_time,
    "rank": lambda version: version.spec.max_rank,
    "size_bytes": lambda version: version.spec.size_bytes,
    "parameters": lambda version: version.spec.parameter_count,
}


class Searching:
    """A part of the catalogue."""

    _store: Store

    def list_adapters(
        self,
        namespace: str | None,
        *,
        page_size: int = 0,
        page_token: str = "",
        filter_text: str = "",
        order_by: str = "",
        show_deleted: bool = False,
    ) -> Page[Adapter]:
        """A page; of every namespace that the caller may read where `namespace` is None."""
        size = clip_page_size(page_size)
        arguments = ("adapters", namespace, filter_text, order_by, *_shown(show_deleted))
        after = decode_token(page_token, arguments, types=(str, str, str))
        order = parse_order(order_by, ADAPTER_ORDERS, BY_NAME)
        rows = self._store.search_adapters(
            current_rights.get().namespaces(Role.READ) if namespace is None else {namespace},
            Search(parse_filter(filter_text, ADAPTER_FIELDS), order, show_deleted),
            after=None
            if after is None
            else (_read(order, str(after[0])), AdapterKey(str(after[1]), str(after[2]))),
            limit=size + 1,
        )

        def place(adapter: Adapter) -> list[str | int]:
            value = _ADAPTER_VALUES[order.field](adapter)
            return [_written(value), adapter.key.namespace, adapter.key.adapter_id]

        return make_page(rows, size, place, arguments)

    def list_versions(
        self,
        key: AdapterKey | None = None,
        *,
        namespace: str | None = None,
        page_size: int = 0,
        page_token: str = "",
        filter_text: str = "",
        order_by: str = "",
        show_deleted: bool = False,
    ) -> Page[Version]:
        """A page, newest first where nothing else is asked for.

        Of one adapter, or where `key` is None of all in a namespace, or in every one that the caller may read. Ordered
        by a metric, versions that do not have it are left out.
        """
        size = clip_page_size(page_size)
        what = namespace if key is None else key.resource_name
        arguments = ("versions", what, filter_text, order_by, *_shown(show_deleted))
        order = parse_order(order_by, VERSION_ORDERS, NEWEST_FIRST if key is None else _BY_NUMBER)
        after = decode_token(page_token, arguments, types=(str, str, str, int))
        among = current_rights.get().namespaces(Role.READ) if namespace is None else {namespace}
        rows = self._store.search_versions(
            key if key is not None else among,
            Search(parse_filter(filter_text, VERSION_FIELDS), order, show_deleted),
            after=None
            if after is None
            else (
                _read(order, str(after[0])),
                AdapterKey(str(after[1]), str(after[2])),
                int(after[3]),
            ),
            limit=size + 1,
        )

        def place(version: Version) -> list[str | int]:
            if order.field == "metrics":
                value: Any = version.lineage.metrics[order.key]
            else:
                value = _VERSION_VALUES[order.field](version)
            return [
                _written(value),
                version.key.namespace,
                version.key.adapter_id,
                version.number,
            ]

        return make_page(rows, size, place, arguments)


def _shown(deleted: bool) -> tuple[str, ...]:
    """For the page token: with and without what is deleted there are two lists."""
    return ("deleted",) if deleted else ()


def _written(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _read(order: Order, written: str) -> Any:
    """The value that a token was made of."""
    try:
        if order.field == "name":
            return ""
        if order.field.endswith("_time"):
            return datetime.fromisoformat(written)
        return float(written) if order.field == "metrics" else int(written)
    except ValueError:
        raise InvalidArgument(
            "the page_token is not one that this registry gave: start again without it",
            reason="PAGE_TOKEN_INVALID",
        ) from None
