"""The events: in order, each once, across restarts, registries and concurrent commits; on SQLite and on PostgreSQL."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sql_event

from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, AliasTarget, Deprecation
from lorry_registry.errors import InvalidArgument, NotFound, OutOfRange, Unavailable
from lorry_registry.events import Event, EventKind
from lorry_registry.principal import current_principal
from lorry_registry.sql import event_log
from lorry_registry.sql.store import SqlStore
from lorry_registry.watching import Batch

from .helpers import KEY

Open = Callable[..., Catalogue]
NEVER = 60.0  # a heartbeat that no test waits for: what comes was rung for


def point(catalogue: Catalogue, number: int, alias: str = "production") -> None:
    catalogue.set_alias(KEY, alias, [AliasTarget(number)])


class Watching:
    """A watch that is read batch by batch."""

    def __init__(self, batches: AsyncIterator[Batch]) -> None:
        self._batches = batches
        self.token = ""

    async def next(self) -> Batch:
        async with asyncio.timeout(20):
            batch = await anext(self._batches)  # type: ignore[arg-type]
        self.token = batch.resume_token
        return batch

    async def events(self, count: int) -> list[Event]:
        found: list[Event] = []
        while len(found) < count:
            found += (await self.next()).events
        return found


def watching(catalogue: Catalogue, **options: Any) -> Any:
    return aclosing(catalogue.watch(**{"heartbeat_seconds": NEVER, **options}))  # type: ignore[type-var]


async def begun(batches: AsyncIterator[Batch]) -> Watching:
    """Once its first message, a bookmark, has come."""
    stream = Watching(batches)
    assert (await stream.next()).events == ()
    return stream


async def test_every_kind_of_change_is_told_with_what_it_was_about(published: Catalogue) -> None:
    other = AdapterKey("default", "other")
    token = current_principal.set("alice")
    try:
        async with watching(published) as batches:
            stream = await begun(batches)
            published.create_adapter(other)
            published.update_adapter(other, description="new")
            published.delete_adapter(other)
            point(published, 2)
            published.set_alias(KEY, "production", [AliasTarget(1), AliasTarget(2)], why="a try")
            published.delete_alias(KEY, "production", why="no good")
            published.deprecate(KEY, 1, Deprecation("old", "support:2"))
            published.undeprecate(KEY, 1, why="still good")
            published.block(KEY, 1, "leaks")
            published.unblock(KEY, 1, why="it does not")
            events = await stream.events(10)
    finally:
        current_principal.reset(token)
    kinds = EventKind
    assert [(event.kind, event.key.adapter_id) for event in events] == [
        (kinds.ADAPTER_CREATED, "other"),
        (kinds.ADAPTER_UPDATED, "other"),
        (kinds.ADAPTER_DELETED, "other"),
        (kinds.ALIAS_MOVED, "support"),
        (kinds.ALIAS_MOVED, "support"),
        (kinds.ALIAS_DELETED, "support"),
        (kinds.VERSION_DEPRECATED, "support"),
        (kinds.VERSION_UNDEPRECATED, "support"),
        (kinds.VERSION_BLOCKED, "support"),
        (kinds.VERSION_UNBLOCKED, "support"),
    ]
    first = events[0].position
    assert [event.position for event in events] == list(range(first, first + 10))
    assert {event.principal for event in events} == {"alice"}
    divided = events[4]
    digests = [published.get_version(KEY, number).digest for number in (1, 2)]
    assert [target.digest for target in divided.targets] == digests
    assert (divided.alias, divided.why) == ("production", "a try")
    assert [event.why for event in events[5:]] == [
        "no good", "old", "still good", "leaks", "it does not"
    ]  # fmt: skip
    assert (events[8].version, events[8].digest) == (1, digests[0])


async def test_what_fails_is_not_told(published: Catalogue) -> None:
    before = published.position()
    with pytest.raises(NotFound):
        point(published, 99)
    assert published.position() == before


async def test_a_token_goes_on_where_it_was_and_survives_restarts(
    published: Catalogue, deployment: Open
) -> None:
    async with watching(published) as batches:
        stream = await begun(batches)
        point(published, 1)
        await stream.events(1)
    for number in (2, 3):
        point(published, number)
    another = deployment()
    async with watching(another, resume_token=stream.token) as batches:
        again = Watching(batches)
        moved = await again.events(2)
        assert [event.targets[0].version for event in moved] == [2, 3]
        point(published, 1)  # through the other registry
        assert [event.targets[0].version for event in await again.events(1)] == [1]
    async with watching(published, resume_token=again.token) as batches:
        await begun(batches)  # nothing is told twice


async def test_other_registries_changes_come_without_asking(
    published: Catalogue, deployment: Open
) -> None:
    other = deployment()
    async with watching(published) as batches:
        stream = await begun(batches)
        for number in (1, 2, 3):
            waiting = asyncio.create_task(stream.events(1))
            await asyncio.sleep(0.05)  # it has looked, and waits for the bell
            await asyncio.to_thread(point, other, number)
            (event,) = await waiting
            assert event.targets[0].version == number


async def test_a_namespace_is_told_of_itself_alone(published: Catalogue) -> None:
    async with watching(published, namespace="elsewhere") as batches:
        stream = await begun(batches)
        point(published, 1)
        there = AdapterKey("elsewhere", "support")
        published.create_adapter(there)
        try:
            (event,) = await stream.events(1)
            assert event.key == there
        finally:
            published.delete_adapter(there)


async def test_a_bookmark_comes_where_nothing_happens(published: Catalogue) -> None:
    async with watching(published, heartbeat_seconds=0.1) as batches:
        stream = await begun(batches)
        for _ in range(2):
            batch = await stream.next()
            assert batch.events == ()
            assert batch.position == published.position()
    with pytest.raises(InvalidArgument) as caught:
        async with watching(published, heartbeat_seconds=0.01) as batches:
            await begun(batches)
    assert caught.value.reason == "HEARTBEAT_INVALID"


async def test_concurrent_commits_come_in_one_order_and_none_is_missed(
    published: Catalogue, deployment: Open
) -> None:
    """A reader that goes on from what it has seen must never meet with a smaller position afterwards."""
    registries = [published, deployment(), deployment()]
    num_moves = 48
    async with watching(published) as batches:
        stream = await begun(batches)

        def write() -> None:
            with ThreadPoolExecutor(8) as pool:
                jobs = [
                    pool.submit(point, registries[n % 3], n % 3 + 1, f"a{n % 5}")
                    for n in range(num_moves)
                ]
                for job in jobs:
                    job.result()

        writing = asyncio.create_task(asyncio.to_thread(write))
        events = await stream.events(num_moves)
        await writing
    positions = [event.position for event in events]
    assert positions == list(range(positions[0], positions[0] + num_moves))
    for alias in {event.alias for event in events}:
        told = [event.targets for event in events if event.alias == alias]
        moves = published.list_alias_moves(KEY, alias, page_size=1000).items[::-1]
        assert [list(move.after) for move in moves[-len(told) :]] == [list(one) for one in told]


async def test_a_commit_that_is_late_holds_up_later_positions(
    published: Catalogue, deployment: Open
) -> None:
    """A position that was given before another, and committed after it, was never seen by whoever had gone on."""
    slow = deployment()
    in_commit, go_on = threading.Event(), threading.Event()

    def wait(connection: object) -> None:
        in_commit.set()
        assert go_on.wait(20)

    assert isinstance(slow._store, SqlStore)
    async with watching(published) as batches:
        stream = await begun(batches)
        sql_event.listen(slow._store._engine, "commit", wait)
        first = asyncio.create_task(asyncio.to_thread(point, slow, 1, "first"))
        assert await asyncio.to_thread(in_commit.wait, 20)
        # Of another adapter, so that nothing but the log stands between the two.
        other = AdapterKey("default", "other")
        second = asyncio.create_task(asyncio.to_thread(published.create_adapter, other))
        try:
            done, _ = await asyncio.wait({second}, timeout=0.3)
            assert not done
            go_on.set()
            await asyncio.gather(first, second)
            events = await stream.events(2)
        finally:
            go_on.set()
            await asyncio.wait({first, second})
            sql_event.remove(slow._store._engine, "commit", wait)
            published.delete_adapter(other)
    assert [event.alias or event.key.adapter_id for event in events] == ["first", "other"]


class TestTokens:
    async def test_one_that_is_none_is_refused(self, published: Catalogue) -> None:
        for token in ("x", "ü", "Zm9v", "YTotMQ", "a" * 400):
            with pytest.raises(InvalidArgument) as caught:
                async with watching(published, resume_token=token) as batches:
                    await begun(batches)
            assert caught.value.reason == "RESUME_TOKEN_INVALID"

    async def test_one_of_another_database_is_expired(
        self, published: Catalogue, tmp_path: Path
    ) -> None:
        other = open_catalogue(tmp_path / "elsewhere")
        async with watching(other) as batches:
            elsewhere = await begun(batches)
        other.close()
        with pytest.raises(OutOfRange) as caught:
            async with watching(published, resume_token=elsewhere.token) as batches:
                await begun(batches)
        assert caught.value.reason == "RESUME_TOKEN_EXPIRED"

    async def test_one_that_is_older_than_what_is_kept_is_expired(
        self, published: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where the watcher is in the middle of it, and too slow."""
        monkeypatch.setattr(event_log, "_DROP_EVERY", 1)
        monkeypatch.setattr(published._store, "_events_kept", 3)
        async with watching(published) as batches:
            stream = await begun(batches)
            for number in (1, 2, 3, 1):
                point(published, number)
            with pytest.raises(OutOfRange) as caught:
                await stream.next()
        assert caught.value.reason == "RESUME_TOKEN_EXPIRED"
        oldest = int(caught.value.metadata["oldest"])
        assert (oldest, int(caught.value.metadata["newest"])) == (oldest, oldest + 2)
        with pytest.raises(OutOfRange):
            async with watching(published, resume_token=stream.token) as batches:
                await begun(batches)


async def test_a_registry_that_stops_ends_its_watches(deployment: Open) -> None:
    stopping = deployment()
    async with watching(stopping) as batches:
        stream = await begun(batches)
        asyncio.get_running_loop().call_later(0.05, stopping.end_watches)
        with pytest.raises(Unavailable) as caught:
            await stream.next()
    assert caught.value.reason == "DRAINING"
