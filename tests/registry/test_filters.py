"""Filters, orders and pages: the grammar, and that both databases find what a plain loop finds."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorry_registry.catalogue import Catalogue
from lorry_registry.entities import AdapterKey, AdapterSpec, Deprecation, File, Lineage, Version
from lorry_registry.errors import InvalidArgument
from lorry_registry.events import Event, EventKind
from lorry_registry.filters import And, Compare, Expression, Not, Or, matches, parse_filter
from lorry_registry.searches import (
    ADAPTER_FIELDS,
    EVENT_FIELDS,
    VERSION_FIELDS,
    event_value,
    parse_order,
)

from .helpers import fingerprint

BASE = fingerprint("a")


def read(text: str) -> Expression | None:
    return parse_filter(text, VERSION_FIELDS)


def test_a_filter_becomes_a_tree() -> None:
    told = f'base = "{BASE}" AND rank <= 16 AND labels.team = "x"'
    assert read(told) == And(
        (
            Compare("base", "=", BASE),
            Compare("rank", "<=", 16.0),
            Compare("labels", "=", "x", "team"),
        )
    )
    assert read("  ") is None
    one = Compare("rank", "=", 1.0)
    # OR binds tighter than AND, as AIP-160 has it.
    assert read("rank = 1 AND rank = 1 OR rank = 1") == And((one, Or((one, one))))
    assert read("(rank = 1 AND rank = 1) OR rank = 1") == Or((And((one, one)), one))
    assert read("NOT rank = 1") == read("-rank = 1") == read("NOT (rank=1)") == Not(one)
    assert read("NOT NOT rank=1") == Not(Not(one))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("description = 'a \\' \" b'", Compare("description", "=", "a ' \" b")),
        ('description = "a \\" AND b"', Compare("description", "=", 'a " AND b')),
        ("description:word", Compare("description", ":", "word")),
        ("description:'two words'", Compare("description", ":", "two words")),
        ("labels:team", Compare("labels", ":", "team")),
        ("labels.team:*", Compare("labels", ":", "*", "team")),
        ("labels.a/b.c-d != x", Compare("labels", "!=", "x", "a/b.c-d")),
        ("metrics.test_exact >= -0.5", Compare("metrics", ">=", -0.5, "test_exact")),
        ("metrics.exact < 1e-3", Compare("metrics", "<", 0.001, "exact")),
        ("state = deprecated", Compare("state", "=", "DEPRECATED")),
        (
            "create_time >= 2026-01-31T01:00:00+01:00",
            Compare("create_time", ">=", datetime(2026, 1, 31, tzinfo=UTC)),
        ),
        ("create_time<2026-01-31", Compare("create_time", "<", datetime(2026, 1, 31, tzinfo=UTC))),
        ("adapter = AND", Compare("adapter", "=", "AND")),
    ],
)
def test_a_restriction(text: str, tree: Expression) -> None:
    assert read(text) == tree


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("rank", 4),
        ("rank =", 6),
        ("rank = 'a", 7),
        ('rank = "a', 7),
        ("rank = x", 7),
        ("rank = nan", 7),
        ("rank = 1e999", 7),
        ("rank : 4", 7),
        ("rank == 4", 6),
        ("rank = 1 rank = 2", 9),
        ("rank = 1 AND", 12),
        ("AND rank = 1", 0),
        ("rank = 1 and rank = 2", 9),
        ("rank = 1 OR", 11),
        ("(rank = 1", 9),
        ("rank = 1)", 8),
        ("NOT", 3),
        ("nobody = 1", 0),
        ("rank.x = 1", 0),
        ("labels = a", 0),
        ("labels. = a", 0),
        ("metrics.exact = x", 16),
        ('adapter = "a*b"', 10),
        ("base = sha256:12", 7),
        (f"base < {BASE}", 7),
        ("state = gone", 8),
        ("state > ACTIVE", 8),
        ("create_time > yesterday", 14),
        ("rank = 1 AND rank ~ 1", 18),
        ("adapter = 'a\0'", 10),
        ("rank=1 AND " * 64 + "rank=1", 64 * 11),
        ("(" * 18 + "rank=1" + ")" * 18, 17),
        ("NOT " * 30 + "rank=1", 17 * 4),
        ("adapter = " + "a" * 5000, 4096),
    ],
)
def test_what_is_no_filter_is_refused_with_the_place(text: str, position: int) -> None:
    with pytest.raises(InvalidArgument, match=f"character {position}:") as caught:
        read(text)
    assert caught.value.reason == "FILTER_INVALID"
    assert caught.value.metadata["position"] == str(position)


@given(st.text(max_size=60) | st.text("rank=1 ()\"'\\-ANDORT<>:*.", max_size=60))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    for fields in (ADAPTER_FIELDS, VERSION_FIELDS, EVENT_FIELDS):
        with suppress(InvalidArgument):
            parse_filter(text, fields)


def test_events_are_filtered_in_memory() -> None:
    event = Event(
        7, EventKind.ALIAS_MOVED, datetime.now(UTC), "alice", AdapterKey("ns", "support"), alias="p"
    )
    for text, holds in (
        ("kind = ALIAS_MOVED AND adapter = support", True),
        ("kind != ALIAS_MOVED OR namespace = n*", True),
        ("NOT principal:lic", False),
        ("alias = p* AND principal = *ice AND adapter = *upp*", True),
        ("version > 0", False),
        ("version <= 0 AND alias >= a", True),
        ("", True),
    ):
        wanted = parse_filter(text, EVENT_FIELDS)
        assert matches(wanted, lambda field: event_value(event, field)) is holds, text


def test_orders() -> None:
    default = parse_order("", ("name",), parse_order("name desc", ("name",), None))  # type: ignore[arg-type]
    assert (default.field, default.descending) == ("name", True)
    metric = parse_order("metrics.a.b desc", ("metrics.KEY",), default)
    assert (metric.field, metric.key, metric.descending) == ("metrics", "a.b", True)
    for wrong in (
        "nobody",
        "name up",
        "name, name",
        "metrics",
        "metrics.",
        "name.x",
        "name desc x",
    ):
        with pytest.raises(InvalidArgument) as caught:
            parse_order(wrong, ("name", "metrics.KEY"), default)
        assert caught.value.reason == "ORDER_INVALID"


ADAPTERS = [
    AdapterKey("default", "alpha"),
    AdapterKey("default", "beta"),
    AdapterKey("zoo", "alpha"),
]
TEXTS = ["", "x", "X", "x%", "a_b", "ab", "xyz", "it's", 'say "x"', "x\\y"]


@pytest.fixture
def stocked_widely(deployment: Callable[[], Catalogue]) -> Catalogue:
    """A few versions of a few adapters, different in everything that is asked for."""
    catalogue = deployment()
    store = catalogue._store
    for at, key in enumerate(ADAPTERS):
        labels = {} if at == 0 else {"team": TEXTS[at]}
        store.create_adapter(key, description=TEXTS[at + 4], labels=labels)
        for number in range(1, 5):
            seed = at * 4 + number
            lineage = Lineage(
                base_fingerprint=fingerprint("ab"[seed % 2]),
                metrics={} if seed % 3 == 0 else {"exact": seed % 5 / 4, "f.1": float(seed)},
            )
            store.create_version(
                key,
                digest="sha256:" + f"{seed:064x}",
                files=[File("a", fingerprint("1"), seed)],
                lineage=lineage,
                spec=AdapterSpec("LORA", 4 << seed % 3, seed, 1 << 33, 1 << seed, False),
                description=TEXTS[seed % len(TEXTS)],
            )
            if seed % 2:
                store.update_version(
                    key, number, description=None, annotations=None, etag="",
                    labels={"team": TEXTS[seed % len(TEXTS)], "n": str(seed)},
                )  # fmt: skip
            if seed % 4 == 0:
                store.set_deprecation(key, number, Deprecation("old"))
            if seed % 5 == 0:
                store.set_block(key, number, "bad")
    return catalogue


def everything(catalogue: Catalogue, filter_text: str = "", **options: Any) -> list[Version]:
    return list(catalogue.list_versions(filter_text=filter_text, page_size=99, **options).items)


def holds(version: Version, expression: Expression) -> bool:
    """As plainly as it can be said."""
    match expression:
        case And(terms):
            return all(holds(version, term) for term in terms)
        case Or(terms):
            return any(holds(version, term) for term in terms)
        case Not(term):
            return not holds(version, term)
        case Compare("labels" | "metrics" as field, operator, value, key):
            found = version.labels if field == "labels" else version.lineage.metrics
            if operator == ":" and (not key or value == "*"):
                return (key or value) in found
            if key not in found:
                return operator == "!="
            return matches(Compare("x", operator, value), lambda _: found[key])
        case _:
            return matches(expression, lambda field: value_of(version, field))


def value_of(version: Version, field: str) -> Any:
    return {
        "number": version.number,
        "adapter": version.key.adapter_id,
        "namespace": version.key.namespace,
        "description": version.description,
        "base": version.lineage.base_fingerprint,
        "rank": version.spec.max_rank,
        "size_bytes": version.spec.size_bytes,
        "state": version.state.value,
        "create_time": version.create_time,
    }[field]


quoted = st.sampled_from(TEXTS[1:]).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
restrictions = st.one_of(
    st.tuples(
        st.sampled_from(["number", "rank", "size_bytes", "metrics.exact", "metrics.f.1", "metrics.no"]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["0", "0.25", "1", "2", "3", "8", "64"]),
    ).map(" ".join),
    st.tuples(
        st.sampled_from(["description", "labels.team", "labels.n", "labels.no", "adapter"]),
        st.sampled_from(["=", "!=", "<", ">=", ":"]),
        quoted,
    ).map(" ".join),
    st.sampled_from(
        [
            "adapter = al*", "adapter != *ta", "description = *x*", "description = X*", "namespace = zoo",
            "state = ACTIVE", "state != BLOCKED", "state = DEPRECATED", f"base = {BASE}", "labels:team",
            "labels.team:*", "metrics:exact", f"base != {BASE}", "create_time > 2020-01-01",
        ]
    ),
)  # fmt: skip
expressions = st.recursive(
    restrictions,
    lambda inner: st.one_of(
        inner.map(lambda one: f"NOT ({one})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda ones: f"({' AND '.join(ones)})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda ones: f"({' OR '.join(ones)})"),
    ),
    max_leaves=6,
)


def test_databases_find_what_a_plain_loop_finds(stocked_widely: Catalogue) -> None:
    versions = everything(stocked_widely)
    assert len(versions) == 12

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(expressions)
    def check(text: str) -> None:
        wanted = read(text)
        assert wanted is not None
        expected = [version for version in versions if holds(version, wanted)]
        assert everything(stocked_widely, text) == expected, text

    check()


def names(catalogue: Catalogue, filter_text: str) -> list[str]:
    page = catalogue.list_adapters(None, filter_text=filter_text)
    return [str(adapter.key) for adapter in page.items]


def test_adapters_are_found_by_what_some_version_has(stocked_widely: Catalogue) -> None:
    assert names(stocked_widely, "") == ["default/alpha", "default/beta", "zoo/alpha"]
    # Of alpha, version 3 has rank 4 and base b, version 2 has rank 16 and base a: no version has rank 4 and base a.
    assert "default/alpha" in names(stocked_widely, "rank = 4")
    assert "default/alpha" in names(stocked_widely, f"base = {BASE}")
    assert "default/alpha" not in names(
        stocked_widely, f"namespace = default AND rank = 4 AND base = {BASE}"
    )
    assert (
        names(stocked_widely, "NOT rank > 0") == []
    )  # of none it holds that no version has a rank
    assert names(stocked_widely, "size_bytes >= 4096") == ["zoo/alpha"]
    assert names(stocked_widely, "labels.team = x AND name = beta") == ["default/beta"]
    assert names(stocked_widely, "NOT labels:team") == ["default/alpha"]
    assert names(stocked_widely, "state = BLOCKED OR namespace = zoo") != []
    assert names(stocked_widely, "metrics.f.1 > 9") == ["zoo/alpha"]
    assert names(stocked_widely, "latest_version < 4") == []
    assert names(stocked_widely, 'name = "x\' OR 1=1 --"') == []


@pytest.mark.parametrize(
    "order",
    ["", "number", "number desc", "create_time", "rank desc", "size_bytes", "metrics.exact desc"],
)
def test_versions_come_in_pages_of_any_order(stocked_widely: Catalogue, order: str) -> None:
    whole = everything(stocked_widely, order_by=order)
    pages: list[Version] = []
    token = ""
    while True:
        page = stocked_widely.list_versions(page_size=2, order_by=order, page_token=token)
        pages += page.items
        token = page.next_token
        if not token:
            break
        with pytest.raises(InvalidArgument):
            stocked_widely.list_versions(order_by="rank", page_token=token)
    assert pages == whole
    field, _, direction = order.partition(" ")
    if field.startswith("metrics"):
        keys: list[Any] = [version.lineage.metrics["exact"] for version in whole]
        assert len(whole) == 8
    else:
        keys = [value_of(version, field or "create_time") for version in whole]
        assert len(whole) == 12
    assert keys == sorted(keys, reverse=direction == "desc" or not field)


def test_versions_of_one_adapter_or_namespace(stocked_widely: Catalogue) -> None:
    alpha = stocked_widely.list_versions(ADAPTERS[0], filter_text="rank >= 8", order_by="rank")
    assert [version.spec.max_rank for version in alpha.items] == [8, 8, 16]
    assert {version.key for version in everything(stocked_widely, namespace="zoo")} == {ADAPTERS[2]}


@pytest.mark.parametrize(
    "order", ["", "name desc", "create_time desc", "update_time", "latest_version"]
)
def test_adapters_come_in_pages_of_any_order(stocked_widely: Catalogue, order: str) -> None:
    whole = list(stocked_widely.list_adapters(None, order_by=order).items)
    assert len(whole) == 3
    token, pages = "", []
    while True:
        page = stocked_widely.list_adapters(None, page_size=1, order_by=order, page_token=token)
        pages += page.items
        token = page.next_token
        if not token:
            break
    assert pages == whole
    if order in ("", "name desc"):
        keys = [(adapter.key.namespace, adapter.key.adapter_id) for adapter in whole]
        assert keys == sorted(keys, reverse=bool(order))
