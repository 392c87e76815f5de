"""The contract of a Store, for every implementation."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from lorry_registry.entities import (
    AdapterKey,
    AdapterSpec,
    AliasTarget,
    Dataset,
    File,
    Lineage,
    Version,
)
from lorry_registry.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    LorryError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from lorry_registry.filters import parse_filter
from lorry_registry.searches import ADAPTER_FIELDS, BY_NAME, Search
from lorry_registry.sql import schema
from lorry_registry.sql.opening import open_database
from lorry_registry.sql.store import SqlStore
from lorry_registry.store import NEW_ONLY, Store

from .databases import emptied, postgres_url
from .helpers import KEY, fingerprint, make_base

SPEC = AdapterSpec("LORA", 8, 4, 1 << 33, 1 << 35, rank_stabilized=True)
FILES = (
    File("a.json", fingerprint("1"), 3, "application/json"),
    File("b", fingerprint("2"), 1 << 35),
)
LINEAGE = Lineage(
    base_fingerprint=fingerprint("a"),
    recipe="r: 8\n# ünïcode",
    datasets=(Dataset("d", fingerprint("d"), "train", 1 << 33),),
    metrics={"exact": 0.25},
    parents=(fingerprint("9"),),
)
EVERYTHING = Search(None, BY_NAME)
KEPT = timedelta(days=30)

Opener = Callable[[], Store]


@pytest.fixture
def reopen(database: str, home: Path) -> Iterator[Opener]:
    """Opens the store again, as another process would."""
    opened: list[Store] = []

    def again() -> Store:
        opened.append(SqlStore(open_database(home, database)))
        return opened[-1]

    yield again
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Opener) -> Store:
    return reopen()


@pytest.fixture
def adapter(store: Store) -> AdapterKey:
    return store.create_adapter(KEY, description="d", labels={"team": "search"}).key


def add(store: Store, digest: str, key: AdapterKey = KEY, lineage: Lineage = LINEAGE) -> Version:
    return store.create_version(
        key, digest=digest, files=FILES, lineage=lineage, spec=SPEC, description="new"
    )


def test_what_was_written_is_read_by_another_process(store: Store, reopen: Opener) -> None:
    adapter = store.create_adapter(KEY, description="d", labels={"team": "search", "a": ""})
    version = add(store, fingerprint("f"))
    alias = store.set_alias(KEY, "production", targets=[AliasTarget(1)], etag="")
    base = store.put_base(make_base(max_rank=16))
    other = reopen()
    changed = replace(adapter, latest_version=1, update_time=alias.update_time)
    assert other.get_adapter(KEY) == changed
    assert other.get_version(KEY, 1) == version
    assert other.get_version_by_digest(KEY, fingerprint("f")) == version
    assert other.get_alias(KEY, "production") == alias
    assert other.get_base(base.fingerprint) == base
    assert version.number == 1
    assert (version.files, version.lineage, version.spec) == (FILES, LINEAGE, SPEC)
    assert version.create_time.utcoffset() is not None
    assert alias.targets == (AliasTarget(1, fingerprint("f"), 1),)


def test_unknown_names_are_told(store: Store, adapter: AdapterKey) -> None:
    nobody = AdapterKey("default", "nobody")
    for reason, look in (
        ("ADAPTER_NOT_FOUND", lambda: store.get_adapter(nobody)),
        ("ADAPTER_NOT_FOUND", lambda: store.delete_adapter(nobody, force=True, etag="", kept=KEPT)),
        ("ADAPTER_NOT_FOUND", lambda: store.list_versions(nobody, after=None, limit=1)),
        ("ADAPTER_NOT_FOUND", lambda: add(store, fingerprint("f"), nobody)),
        ("ADAPTER_NOT_FOUND", lambda: store.get_alias(nobody, "a")),
        ("VERSION_NOT_FOUND", lambda: store.get_version(adapter, 1)),
        ("VERSION_NOT_FOUND", lambda: store.get_version_by_digest(adapter, fingerprint("f"))),
        (
            "VERSION_NOT_FOUND",
            lambda: store.set_alias(adapter, "a", targets=[AliasTarget(1)], etag=""),
        ),
        ("ALIAS_NOT_FOUND", lambda: store.get_alias(adapter, "a")),
        ("ALIAS_NOT_FOUND", lambda: store.delete_alias(adapter, "a", etag="")),
        ("BASE_NOT_FOUND", lambda: store.get_base(fingerprint("a"))),
    ):
        with pytest.raises(NotFound) as caught:
            look()
        assert caught.value.reason == reason
    assert store.list_aliases(adapter, after=None, limit=9) == []


def test_a_name_is_taken_once(store: Store, adapter: AdapterKey) -> None:
    with pytest.raises(AlreadyExists):
        store.create_adapter(adapter, description="", labels={})
    assert store.get_adapter(adapter).description == "d"


def test_adapters_are_listed_by_filter_and_page(store: Store) -> None:
    for name, team in (("b", "x"), ("a", "x"), ("intent-2", "y"), ("intent_1", "y"), ("int%", "y")):
        store.create_adapter(AdapterKey("default", name), description="", labels={"team": team})
    store.create_adapter(AdapterKey("zoo", "a"), description="", labels={})
    add(store, fingerprint("f"), AdapterKey("default", "b"))

    def names(
        where: str = "",
        namespace: str | None = None,
        after: AdapterKey | None = None,
        limit: int = 99,
    ) -> list[str]:
        among = None if namespace is None else {namespace}
        found = store.search_adapters(
            among,
            Search(parse_filter(where, ADAPTER_FIELDS), BY_NAME),
            after=None if after is None else ("", after),
            limit=limit,
        )
        return [str(adapter.key) for adapter in found]

    everything = names()
    assert everything == sorted(everything)
    assert len(everything) == 6
    assert names(namespace="zoo") == ["zoo/a"]
    assert names('labels.team = "x"') == ["default/a", "default/b"]
    assert names('labels.team = "x" AND name = "b"') == ["default/b"]
    assert names('labels.team = "x" AND labels.team = "y"') == []
    assert names('name = "intent*"') == ["default/intent-2", "default/intent_1"]
    assert names('name = "intent_*"') == ["default/intent_1"]  # `_` and `%` mean themselves
    assert names(f'base = "{fingerprint("a")}"') == ["default/b"]
    assert names(f'base = "{fingerprint("b")}"') == []
    paged: list[str] = []
    after = None
    while page := names(after=after, limit=2):
        paged += page
        after = AdapterKey(*page[-1].split("/"))
    assert paged == everything


def test_an_update_changes_what_is_given_and_the_etag(store: Store, adapter: AdapterKey) -> None:
    before = store.get_adapter(adapter)
    after = store.update_adapter(
        adapter, description=None, labels={"team": "b", "x": "1"}, etag=before.etag
    )
    assert (after.description, after.labels) == ("d", {"team": "b", "x": "1"})
    assert after.etag != before.etag
    assert after.update_time > before.update_time
    assert store.get_adapter(adapter) == after
    with pytest.raises(Aborted) as caught:
        store.update_adapter(adapter, description="lost", labels=None, etag=before.etag)
    assert caught.value.reason == "ETAG_MISMATCH"
    assert (
        store.update_adapter(adapter, description="e", labels=None, etag="").labels == after.labels
    )


def test_publishing_leaves_the_adapters_etag(store: Store, adapter: AdapterKey) -> None:
    before = store.get_adapter(adapter)
    add(store, fingerprint("f"))
    after = store.get_adapter(adapter)
    assert (after.etag, after.latest_version) == (before.etag, 1)


def test_an_adapter_with_versions_is_deleted_only_by_force(
    store: Store, adapter: AdapterKey
) -> None:
    add(store, fingerprint("f"))
    store.set_alias(adapter, "production", targets=[AliasTarget(1)], etag="")
    with pytest.raises(FailedPrecondition) as caught:
        store.delete_adapter(adapter, force=False, etag="", kept=KEPT)
    assert caught.value.reason == "ADAPTER_HAS_VERSIONS"
    with pytest.raises(Aborted):
        store.delete_adapter(adapter, force=True, etag="stale", kept=KEPT)
    store.delete_adapter(adapter, force=True, etag=store.get_adapter(adapter).etag, kept=KEPT)
    store.purge_adapter(adapter)
    assert store.search_adapters(None, EVERYTHING, after=None, limit=9) == []
    # A new adapter of that name has nothing of the old one.
    store.create_adapter(adapter, description="", labels={})
    assert store.list_versions(adapter, after=None, limit=9) == []
    assert store.list_aliases(adapter, after=None, limit=9) == []
    assert add(store, fingerprint("e")).number == 1


def test_the_same_digest_is_the_same_version(store: Store, adapter: AdapterKey) -> None:
    first = add(store, fingerprint("f"))
    again = add(store, fingerprint("f"), lineage=Lineage(recipe="told otherwise"))
    assert again == first
    other = AdapterKey("default", "other")
    store.create_adapter(other, description="", labels={})
    assert add(store, fingerprint("f"), other).key == other


def test_versions_are_listed_newest_first(store: Store, adapter: AdapterKey) -> None:
    for letter in "abcde":
        add(store, fingerprint(letter))
    assert [v.number for v in store.list_versions(adapter, after=None, limit=3)] == [5, 4, 3]
    assert [v.number for v in store.list_versions(adapter, after=3, limit=3)] == [2, 1]


def test_an_alias_moves_only_from_the_state_that_was_seen(
    store: Store, adapter: AdapterKey
) -> None:
    add(store, fingerprint("1"))
    add(store, fingerprint("2"))
    first = store.set_alias(adapter, "p", targets=[AliasTarget(1)], etag=NEW_ONLY)
    with pytest.raises(Aborted) as caught:
        store.set_alias(adapter, "p", targets=[AliasTarget(2)], etag=NEW_ONLY)
    assert caught.value.reason == "ALIAS_EXISTS"
    second = store.set_alias(adapter, "p", targets=[AliasTarget(2)], etag=first.etag)
    assert second.etag != first.etag
    for change in (
        lambda: store.set_alias(adapter, "p", targets=[AliasTarget(1)], etag=first.etag),
        lambda: store.delete_alias(adapter, "p", etag=first.etag),
        lambda: store.set_alias(adapter, "new", targets=[AliasTarget(1)], etag=first.etag),
    ):
        with pytest.raises(Aborted) as caught:
            change()
        assert caught.value.reason == "ETAG_MISMATCH"
    assert store.get_alias(adapter, "p") == second
    store.delete_alias(adapter, "p", etag=second.etag)
    # Made anew, the alias does not take the old one's etag.
    store.set_alias(adapter, "p", targets=[AliasTarget(1)], etag=NEW_ONLY)
    with pytest.raises(Aborted):
        store.set_alias(adapter, "p", targets=[AliasTarget(2)], etag=second.etag)


def test_a_failed_alias_move_leaves_it_where_it_was(store: Store, adapter: AdapterKey) -> None:
    add(store, fingerprint("1"))
    before = store.set_alias(adapter, "p", targets=[AliasTarget(1)], etag="")
    with pytest.raises(NotFound, match="the newest is 1"):
        store.set_alias(adapter, "p", targets=[AliasTarget(7)], etag="")
    assert store.get_alias(adapter, "p") == before


def test_aliases_are_listed_in_order(store: Store, adapter: AdapterKey) -> None:
    add(store, fingerprint("1"))
    for name in ("c", "a", "b"):
        store.set_alias(adapter, name, targets=[AliasTarget(1)], etag="")
    assert [a.alias_id for a in store.list_aliases(adapter, after=None, limit=2)] == ["a", "b"]
    assert [a.alias_id for a in store.list_aliases(adapter, after="b", limit=2)] == ["c"]


def test_bases_are_listed_newest_first_and_keep_their_place(store: Store) -> None:
    for letter in "abc":
        store.put_base(make_base(letter))
    first = store.get_base(fingerprint("a"))
    updated = store.put_base(make_base("a", name="renamed", max_rank=64))
    assert (updated.display_name, updated.max_rank) == ("renamed", 64)
    assert updated.create_time == first.create_time
    listed = [b.fingerprint[-1] for b in store.list_bases(after=None, limit=2)]
    assert listed == ["c", "b"]
    assert store.list_bases(after=fingerprint("b"), limit=2) == [updated]


def test_sixteen_publishers_make_a_linear_history(reopen: Opener, adapter: AdapterKey) -> None:
    """Each digest is published twice at once, through connections of its own: one version each, no gaps."""
    stores = [reopen() for _ in range(4)]
    digests = ["sha256:" + f"{i:064x}" for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(add, stores[i % 4], digests[i // 2]) for i in range(32)]
        published = [job.result() for job in jobs]
    assert {v.number for v in published} == set(range(1, 17))
    listed = stores[0].list_versions(adapter, after=None, limit=99)
    assert [v.number for v in listed] == list(range(16, 0, -1))
    assert len({v.digest for v in listed}) == 16


def test_sixteen_writers_of_one_alias_lose_no_update(reopen: Opener, adapter: AdapterKey) -> None:
    """Every move starts from the state that the move before it made: the etags form one chain."""
    stores = [reopen() for _ in range(4)]
    for i in range(16):
        add(stores[0], "sha256:" + f"{i:064x}")
    first = stores[0].set_alias(adapter, "p", targets=[AliasTarget(1)], etag=NEW_ONLY)
    moves: list[tuple[str, str]] = []
    lock = threading.Lock()

    def move(number: int) -> None:
        store = stores[number % 4]
        while True:
            seen = store.get_alias(adapter, "p").etag
            try:
                now = store.set_alias(adapter, "p", targets=[AliasTarget(number)], etag=seen)
            except Aborted:
                continue
            with lock:
                moves.append((seen, now.etag))
            return

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(move, range(1, 17)))
    following = dict(moves)
    assert len(following) == 16
    etag, length = first.etag, 0
    while etag in following:
        etag, length = following[etag], length + 1
    assert length == 16
    assert stores[0].get_alias(adapter, "p").etag == etag


class TestSqlite:
    """What storage itself does wrong, in our words."""

    @pytest.fixture
    def sql(self, home: Path) -> Iterator[SqlStore]:
        store = SqlStore(open_database(home))
        yield store
        store.close()

    def test_a_full_disk_changes_nothing(self, sql: SqlStore) -> None:
        sql.create_adapter(KEY, description="", labels={})
        # A page limit makes SQLite say what it says on a full disk.
        event.listen(
            sql._engine, "begin", lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1").close()
        )
        with pytest.raises(ResourceExhausted) as caught:
            sql.update_adapter(KEY, description="x" * 1_000_000, labels=None, etag="")
        assert caught.value.reason == "DISK_FULL"
        assert sql.get_adapter(KEY).description == ""

    def test_a_writer_that_keeps_the_lock_is_told_as_unavailable(
        self, sql: SqlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sql.create_adapter(KEY, description="", labels={})
        event.listen(sql._engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout = 50"))
        with sql._engine.connect() as blocker:
            blocker.exec_driver_sql("ROLLBACK").close()
            blocker.exec_driver_sql("BEGIN IMMEDIATE").close()
            with pytest.raises(Unavailable):
                sql.update_adapter(KEY, description="x", labels=None, etag="")
        sql.update_adapter(KEY, description="x", labels=None, etag="")

    def test_settings_hold_on_every_connection(self, sql: SqlStore) -> None:
        with sql._engine.connect() as one, sql._engine.connect() as two:
            for connection in (one, two):
                for pragma, value in (
                    ("journal_mode", "wal"),
                    ("foreign_keys", 1),
                    ("synchronous", 2),
                ):
                    assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value

    def test_other_database_failures_are_unavailable(
        self, sql: SqlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(connection: object) -> None:
            raise OperationalError("SELECT", {}, Exception("server closed the connection"))

        event.listen(sql._engine, "begin", fail)
        with pytest.raises(Unavailable, match="retry"):
            sql.get_adapter(KEY)


class TestPostgres:
    """What a database elsewhere does wrong, in our words, and what it must not do to what is read."""

    @pytest.fixture
    def sql(self, postgres: str, home: Path) -> Iterator[SqlStore]:
        store = SqlStore(open_database(home, emptied(postgres)))
        store.create_adapter(KEY, description="d", labels={})
        yield store
        store.close()

    def test_connections_that_were_cut_are_made_anew(self, sql: SqlStore) -> None:
        with create_engine(sql._engine.url).connect() as other:
            cut = other.exec_driver_sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'lorry-registry' AND datname = current_database()"
            )
            assert cut.scalar_one() > 0
        assert sql.get_adapter(KEY).description == "d"

    def test_a_connection_that_is_cut_in_the_middle_changes_nothing(self, sql: SqlStore) -> None:
        def cut(session: Session, *_: object) -> None:
            session.connection().exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

        event.listen(Session, "after_flush", cut)
        try:
            with pytest.raises(Unavailable) as caught:
                sql.update_adapter(KEY, description="lost", labels=None, etag="")
        finally:
            event.remove(Session, "after_flush", cut)
        assert caught.value.reason == "STORAGE_UNAVAILABLE"
        assert sql.get_adapter(KEY).description == "d"

    def test_who_waits_too_long_for_a_row_is_told_as_unavailable(self, sql: SqlStore) -> None:
        event.listen(
            sql._engine, "begin", lambda c: c.exec_driver_sql("SET lock_timeout = 50").close()
        )
        with create_engine(sql._engine.url).begin() as other:
            other.exec_driver_sql("SELECT * FROM adapters FOR UPDATE").close()
            with pytest.raises(Unavailable):
                sql.update_adapter(KEY, description="x", labels=None, etag="")
            assert sql.get_adapter(KEY).description == "d"  # readers wait for nobody

    def test_a_database_that_takes_no_writes_says_so(self, sql: SqlStore) -> None:
        event.listen(
            sql._engine, "begin", lambda c: c.exec_driver_sql("SET TRANSACTION READ ONLY").close()
        )
        with pytest.raises(FailedPrecondition) as caught:
            sql.update_adapter(KEY, description="x", labels=None, etag="")
        assert caught.value.reason == "HOME_UNWRITABLE"
        assert sql.get_adapter(KEY).description == "d"

    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            ("53100", ResourceExhausted),
            ("40001", Unavailable),
            ("40P01", Unavailable),
            ("57P03", Unavailable),
            ("58030", Internal),
        ],
    )
    def test_each_kind_of_failure_has_its_words(
        self, sql: SqlStore, state: str, kind: type[LorryError]
    ) -> None:
        raises = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
        event.listen(sql._engine, "begin", lambda c: c.exec_driver_sql(raises).close())
        with pytest.raises(kind):
            sql.get_adapter(KEY)

    def test_an_alias_is_read_as_it_was_at_one_moment(self, sql: SqlStore) -> None:
        """Its row and its targets come by two queries; a move between them gave one's etag with the other's targets."""
        for letter in "12":
            add(sql, fingerprint(letter))
        before = sql.set_alias(KEY, "p", targets=[AliasTarget(1)], etag="")
        moved = []

        def move(conn: object, cursor: object, statement: str, *_: object) -> None:
            if "alias_targets" in statement and statement.startswith("SELECT") and not moved:
                moved.append(True)
                with create_engine(sql._engine.url).begin() as other:
                    other.exec_driver_sql("UPDATE aliases SET etag = 'moved'").close()
                    other.exec_driver_sql(
                        "UPDATE alias_targets SET version_id = (SELECT max(id) FROM versions)"
                    ).close()

        event.listen(sql._reading, "before_cursor_execute", move)
        assert sql.get_alias(KEY, "p") == before
        assert moved
        assert sql.get_alias(KEY, "p").targets[0].version == 2


def test_a_database_that_does_not_answer_is_told_at_start(home: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        open_database(home, "postgresql://u:secret@127.0.0.1:1/none")
    assert caught.value.reason == "STORAGE_UNAVAILABLE"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:secret@host/db", "sqlite://"])
def test_a_url_of_no_database_is_refused_without_repeating_it(home: Path, url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_database(home, url)
    assert caught.value.reason == "DATABASE_INVALID"
    assert "secret" not in caught.value.message


def test_a_shared_database_is_migrated_only_when_it_is_asked_for(home: Path) -> None:
    with postgres_url() as url:
        engine = create_engine(url)
        with engine.connect() as connection, connection.begin():
            command.upgrade(schema.alembic_config(connection), schema.FIRST)
        with pytest.raises(FailedPrecondition, match="lorry registry migrate") as caught:
            open_database(home, url)
        assert caught.value.reason == "SCHEMA_OLDER"
        open_database(home, url, upgrade=True).dispose()
        open_database(home, url).dispose()
        engine.dispose()
