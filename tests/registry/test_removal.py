"""What is deleted can be brought back as it was, and goes for good when its time is up, or at once when asked."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from lorry_registry import removal
from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AliasTarget, Version
from lorry_registry.errors import Aborted, AlreadyExists, FailedPrecondition, LorryError, NotFound
from lorry_registry.upkeep.garbage import Collected

from .databases import emptied
from .helpers import KEY, adapter_bytes, make_base, publish


@pytest.fixture
def catalogue(home: Path, database: str) -> Iterator[Catalogue]:
    opened = open_catalogue(home, database=database)
    opened.put_base(make_base())
    opened.create_adapter(KEY, labels={"team": "search"})
    yield opened
    opened.close()


@pytest.fixture
def versions(catalogue: Catalogue) -> list[Version]:
    """Three, of which the alias `production` points at the second."""
    made = [publish(catalogue, adapter_bytes(seed=seed)) for seed in range(3)]
    catalogue.set_alias(KEY, "production", [AliasTarget(2)])
    return made


def refused(kind: type[LorryError], call: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    return caught.value.reason


class TestAdapters:
    def test_a_deleted_one_is_found_by_nobody_who_does_not_ask_for_it(
        self, catalogue: Catalogue, versions: list[Version]
    ) -> None:
        gone = catalogue.delete_adapter(KEY, force=True)
        assert gone.delete_time is not None
        assert gone.purge_time == gone.delete_time + removal.KEPT_AFTER_DELETION
        assert catalogue.get_adapter(KEY) == gone
        assert catalogue.list_adapters(None).items == ()
        assert catalogue.list_adapters(None, show_deleted=True).items == (gone,)
        for call, arguments in (
            (catalogue.resolve, ("support",)),
            (catalogue.resolve, ("support:1",)),
            (catalogue.resolve, ("support@production",)),
            (catalogue.resolve, (f"support@{versions[0].digest}",)),
            (catalogue.list_versions, (KEY,)),
            (catalogue.get_version, (KEY, 1)),
            (catalogue.set_alias, (KEY, "production", [AliasTarget(1)])),
            (catalogue.list_aliases, (KEY,)),
            (catalogue.update_adapter, (KEY,)),
            (catalogue.delete_adapter, (KEY,)),
        ):
            assert refused(NotFound, call, *arguments) == "ADAPTER_DELETED"
        assert refused(NotFound, publish, catalogue, adapter_bytes(seed=9)) == "ADAPTER_DELETED"
        assert refused(AlreadyExists, catalogue.create_adapter, KEY) == "ADAPTER_EXISTS"

    def test_brought_back_it_is_as_it_was(
        self, catalogue: Catalogue, versions: list[Version]
    ) -> None:
        before = catalogue.get_adapter(KEY)
        catalogue.delete_adapter(KEY, force=True)
        back = catalogue.undelete_adapter(KEY)
        assert back.etag != before.etag
        assert (back.labels, back.latest_version, back.delete_time) == (before.labels, 3, None)
        assert catalogue.resolve("support") == versions[1]
        assert list(catalogue.list_versions(KEY).items) == versions[::-1]
        assert refused(AlreadyExists, catalogue.undelete_adapter, KEY) == "ADAPTER_NOT_DELETED"

    def test_purged_its_name_is_free(self, catalogue: Catalogue, versions: list[Version]) -> None:
        assert refused(FailedPrecondition, catalogue.purge_adapter, KEY) == "ADAPTER_NOT_DELETED"
        catalogue.delete_adapter(KEY, force=True)
        catalogue.purge_adapter(KEY)
        assert refused(NotFound, catalogue.undelete_adapter, KEY) == "ADAPTER_NOT_FOUND"
        catalogue.create_adapter(KEY)
        assert publish(catalogue, adapter_bytes()).number == 1
        assert catalogue.list_aliases(KEY).items == ()

    def test_one_without_versions_is_gone_at_once(self, catalogue: Catalogue) -> None:
        """A push whose first version is refused takes its adapter away again, and the next must find the name free."""
        catalogue.delete_adapter(KEY)
        assert refused(NotFound, catalogue.get_adapter, KEY) == "ADAPTER_NOT_FOUND"
        catalogue.create_adapter(KEY)


class TestVersions:
    def test_one_that_an_alias_points_at_is_in_use(
        self, catalogue: Catalogue, versions: list[Version]
    ) -> None:
        with pytest.raises(FailedPrecondition, match="production") as caught:
            catalogue.delete_version(KEY, 2)
        assert caught.value.reason == "VERSION_IN_USE"
        assert catalogue.resolve("support") == versions[1]
        catalogue.delete_version(KEY, 2, force=True)
        assert refused(NotFound, catalogue.resolve, "support") == "VERSION_DELETED"
        assert refused(FailedPrecondition, catalogue.purge_version, KEY, 2) == "VERSION_IN_USE"
        catalogue.undelete_version(KEY, 2)
        assert catalogue.resolve("support").digest == versions[1].digest

    def test_a_deleted_one_is_found_by_nobody_who_does_not_ask_for_it(
        self, catalogue: Catalogue, versions: list[Version]
    ) -> None:
        gone = catalogue.delete_version(KEY, 3)
        assert gone.delete_time is not None
        assert catalogue.get_version(KEY, 3) == gone
        assert [v.number for v in catalogue.list_versions(KEY).items] == [2, 1]
        shown = catalogue.list_versions(KEY, show_deleted=True).items
        assert [v.number for v in shown] == [3, 2, 1]
        for reference in ("support:3", f"support@{gone.digest}"):
            assert refused(NotFound, catalogue.resolve, reference) == "VERSION_DELETED"
        assert (
            refused(NotFound, catalogue.set_alias, KEY, "canary", [AliasTarget(3)])
            == "VERSION_DELETED"
        )
        assert refused(NotFound, catalogue.delete_version, KEY, 3) == "VERSION_DELETED"
        assert (
            refused(FailedPrecondition, publish, catalogue, adapter_bytes(seed=2))
            == "VERSION_DELETED"
        )
        catalogue.delete_alias(KEY, "production")
        assert catalogue.resolve("support").number == 2, "the newest that is there"

    def test_no_adapter_is_found_by_a_deleted_version(
        self, catalogue: Catalogue, versions: list[Version]
    ) -> None:
        """Servers listed adapters for their base that had no version for it any more."""
        asked = {"filter_text": f'digest = "{versions[2].digest}"'}
        assert [found.key for found in catalogue.list_adapters(None, **asked).items] == [KEY]
        catalogue.delete_version(KEY, 3)
        assert catalogue.list_adapters(None, **asked).items == ()
        catalogue.undelete_version(KEY, 3)
        assert [found.key for found in catalogue.list_adapters(None, **asked).items] == [KEY]

    def test_no_number_is_given_twice(self, catalogue: Catalogue, versions: list[Version]) -> None:
        catalogue.delete_version(KEY, 3)
        assert publish(catalogue, adapter_bytes(seed=7)).number == 4
        catalogue.purge_version(KEY, 3)
        assert publish(catalogue, adapter_bytes(seed=2)).number == 5
        assert refused(NotFound, catalogue.get_version, KEY, 3) == "VERSION_NOT_FOUND"

    def test_a_stale_etag_deletes_nothing(
        self, catalogue: Catalogue, versions: list[Version]
    ) -> None:
        assert refused(Aborted, catalogue.delete_version, KEY, 1, etag="old") == "ETAG_MISMATCH"
        assert catalogue.get_version(KEY, 1).delete_time is None

    def test_a_rollback_reaches_no_deleted_version(
        self, catalogue: Catalogue, versions: list[Version]
    ) -> None:
        catalogue.set_alias(KEY, "production", [AliasTarget(3)])
        catalogue.delete_version(KEY, 2)
        assert (
            refused(FailedPrecondition, catalogue.rollback_alias, KEY, "production")
            == "ROLLBACK_TARGET_GONE"
        )


def test_what_is_due_is_purged_by_the_collection_and_its_blobs_with_it(
    catalogue: Catalogue, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.delete_version(KEY, 1)
    monkeypatch.setattr(removal, "KEPT_AFTER_DELETION", timedelta(seconds=-1))
    catalogue.delete_version(KEY, 3)
    catalogue.delete_version(KEY, 2, force=True)  # due as well, and an alias points at it
    planned = catalogue.collect(grace_seconds=-5, dry_run=True)
    assert planned.purged == 1
    done = catalogue.collect(grace_seconds=-5)
    weights = next(file for file in versions[2].files if file.path.endswith(".safetensors"))
    assert done == Collected(purged=1, blobs=1, blob_bytes=weights.size_bytes)
    shown = catalogue.list_versions(KEY, show_deleted=True).items
    assert [v.number for v in shown] == [2, 1]
    catalogue.undelete_version(KEY, 1)
    assert catalogue.resolve("support:1").digest == versions[0].digest
    assert list(catalogue.check()) == []
    catalogue.delete_adapter(KEY, force=True)
    assert catalogue.collect(grace_seconds=-5).purged == 1
    assert list(catalogue.blobs.blobs()) == []


def test_what_is_being_brought_back_is_not_purged(home: Path, postgres: str) -> None:
    """On PostgreSQL a collection chose what was due, waited for the undelete of it, and purged it all the same."""
    catalogue = open_catalogue(home, database=emptied(postgres))
    engine = create_engine(postgres)
    with closing(catalogue), ThreadPoolExecutor(1) as thread, engine.connect() as beside:
        catalogue.put_base(make_base())
        catalogue.create_adapter(KEY)
        for seed in range(2):
            publish(catalogue, adapter_bytes(seed=seed))
        catalogue.delete_version(KEY, 1)
        catalogue.delete_adapter(KEY, force=True)
        with beside.begin():
            for table in ("adapters", "versions"):
                beside.execute(text(f"UPDATE {table} SET delete_time = NULL, purge_time = NULL"))
            later = datetime.now(UTC) + 2 * removal.KEPT_AFTER_DELETION
            purging = thread.submit(catalogue._store.purge_expired, later, dry_run=False)
            while not purging.done() and not _somebody_waits(engine):
                time.sleep(0.01)
        assert purging.result() == 0
        assert catalogue.resolve("support:1").number == 1
    engine.dispose()


def _somebody_waits(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(
            connection.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            ).scalar()
        )
