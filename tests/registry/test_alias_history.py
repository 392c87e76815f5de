"""Every move of an alias is kept, and there is a way back from each: on SQLite and on PostgreSQL."""

import itertools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AliasMove, AliasTarget
from lorry_registry.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from lorry_registry.principal import ANONYMOUS, current_principal

from .helpers import KEY


@pytest.fixture
def catalogue(published: Catalogue) -> Catalogue:
    return published


def point(catalogue: Catalogue, *numbers: int, **options: str) -> str:
    targets = [AliasTarget(number) for number in numbers]
    return catalogue.set_alias(KEY, "production", targets, **options).etag


def moves(catalogue: Catalogue) -> list[AliasMove]:
    return list(catalogue.list_alias_moves(KEY, "production").items)


def versions(targets: tuple[AliasTarget, ...]) -> list[int]:
    return [target.version for target in targets]


def now(catalogue: Catalogue) -> list[int]:
    return versions(catalogue.get_alias(KEY, "production").targets)


def test_a_move_says_who_when_from_where_to_and_why(catalogue: Catalogue) -> None:
    point(catalogue, 1)
    token = current_principal.set("alice")
    try:
        etag = point(catalogue, 2, why="better on returns")
        catalogue.delete_alias(KEY, "production", etag=etag, why="retired")
    finally:
        current_principal.reset(token)
    point(catalogue, 3)
    made_again, deleted, moved, made = moves(catalogue)
    assert [move.number for move in (made, moved, deleted, made_again)] == [1, 2, 3, 4]
    assert (made.principal, made.before, versions(made.after)) == (ANONYMOUS, (), [1])
    assert (moved.principal, moved.why) == ("alice", "better on returns")
    assert (versions(moved.before), versions(moved.after)) == ([1], [2])
    assert moved.after[0].digest == catalogue.get_version(KEY, 2).digest
    assert (deleted.why, versions(deleted.before), deleted.after) == ("retired", [2], ())
    assert (made_again.before, versions(made_again.after)) == ((), [3])
    assert made.time <= moved.time <= deleted.time <= made_again.time


def test_moves_come_in_pages_newest_first(catalogue: Catalogue) -> None:
    for number in (1, 2, 3, 2, 1):
        point(catalogue, number)
    first = catalogue.list_alias_moves(KEY, "production", page_size=2)
    rest = catalogue.list_alias_moves(KEY, "production", page_token=first.next_token)
    assert [move.number for move in (*first.items, *rest.items)] == [5, 4, 3, 2, 1]
    with pytest.raises(InvalidArgument):
        catalogue.list_alias_moves(KEY, "other", page_token=first.next_token)


def test_an_alias_that_never_was_has_no_history(catalogue: Catalogue) -> None:
    for ask in (catalogue.list_alias_moves, catalogue.rollback_alias):
        with pytest.raises(NotFound) as caught:
            ask(KEY, "nobody")
        assert caught.value.reason == "ALIAS_NOT_FOUND"


def test_one_rollback_after_the_other_goes_further_back(catalogue: Catalogue) -> None:
    """Two people who roll the same failure back must not end where they began."""
    for number in (1, 2, 3):
        point(catalogue, number)
    back = catalogue.rollback_alias(KEY, "production", why="3 is broken")
    assert versions(back.targets) == [2]
    last = moves(catalogue)[0]
    assert (last.number, last.restores, last.why) == (4, 2, "3 is broken")
    assert versions(catalogue.rollback_alias(KEY, "production").targets) == [1]
    with pytest.raises(FailedPrecondition) as caught:
        catalogue.rollback_alias(KEY, "production")
    assert caught.value.reason == "NOTHING_TO_ROLL_BACK"
    assert now(catalogue) == [1]
    # Forward again, by its number; then back by one from there.
    assert versions(catalogue.rollback_alias(KEY, "production", move=3).targets) == [3]
    assert versions(catalogue.rollback_alias(KEY, "production").targets) == [2]


def test_weights_come_back_too(catalogue: Catalogue) -> None:
    shares = [AliasTarget(1, weight=90), AliasTarget(2, weight=10)]
    before = catalogue.set_alias(KEY, "production", shares)
    point(catalogue, 2)
    back = catalogue.rollback_alias(KEY, "production")
    assert back.targets == before.targets
    assert [target.weight for target in back.targets] == [90, 10]


def test_a_deleted_alias_comes_back(catalogue: Catalogue) -> None:
    point(catalogue, 2)
    catalogue.delete_alias(KEY, "production")
    assert versions(catalogue.rollback_alias(KEY, "production").targets) == [2]
    with pytest.raises(FailedPrecondition, match="move 2 deleted it") as caught:
        catalogue.rollback_alias(KEY, "production", move=2)
    assert caught.value.reason == "NOTHING_TO_ROLL_BACK"


def test_a_rollback_to_a_rollback_brings_back_what_that_brought_back(catalogue: Catalogue) -> None:
    for number in (1, 2, 3):
        point(catalogue, number)
    catalogue.rollback_alias(KEY, "production", move=1)
    point(catalogue, 3)
    assert versions(catalogue.rollback_alias(KEY, "production", move=4).targets) == [1]
    assert moves(catalogue)[0].restores == 1
    for unknown in (7, 99):
        with pytest.raises(NotFound, match="from 1 to 6") as caught:
            catalogue.rollback_alias(KEY, "production", move=unknown)
        assert caught.value.reason == "ALIAS_MOVE_NOT_FOUND"
    with pytest.raises(InvalidArgument):
        catalogue.rollback_alias(KEY, "production", move=-1)


def test_a_rollback_is_guarded_by_the_etag(catalogue: Catalogue) -> None:
    stale = point(catalogue, 1)
    etag = point(catalogue, 2)
    with pytest.raises(Aborted):
        catalogue.rollback_alias(KEY, "production", etag=stale)
    assert now(catalogue) == [2]
    catalogue.rollback_alias(KEY, "production", etag=etag)
    assert now(catalogue) == [1]
    catalogue.delete_alias(KEY, "production")
    with pytest.raises(Aborted, match="not there"):
        catalogue.rollback_alias(KEY, "production", etag=etag)


def test_history_is_linear_whoever_moves_the_alias_at_once(catalogue: Catalogue) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: point(catalogue, n % 3 + 1), range(24)))
    history = moves(catalogue)[::-1]
    assert [move.number for move in history] == list(range(1, 25))
    for before, after in itertools.pairwise(history):
        assert before.after == after.before
    assert list(history[-1].after) == list(catalogue.get_alias(KEY, "production").targets)


@pytest.mark.parametrize(
    "targets",
    [
        [],
        [AliasTarget(1)] * 2,
        [AliasTarget(1, weight=-1)],
        [AliasTarget(1, weight=1_000_001)],
        [AliasTarget(n) for n in range(1, 18)],
    ],
)
def test_shares_that_make_no_sense_are_refused(
    catalogue: Catalogue, targets: list[AliasTarget]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        catalogue.set_alias(KEY, "production", targets)
    assert caught.value.reason == "ALIAS_TARGETS_INVALID"
    assert catalogue.list_aliases(KEY).items == ()


def test_a_divided_alias_gives_each_key_its_version(catalogue: Catalogue) -> None:
    shares = [AliasTarget(1, weight=3), AliasTarget(2, weight=1)]
    catalogue.set_alias(KEY, "production", shares)
    meaning = catalogue.expand("support")
    assert [(version.number, weight) for version, weight in meaning.versions] == [(1, 3), (2, 1)]
    assert meaning.salt == "default/support@production"
    assert catalogue.resolve("support").number == 1  # what most requests get
    chosen = [catalogue.resolve("support", f"user-{n}").number for n in range(20)]
    assert set(chosen) == {1, 2}
    assert chosen == [
        catalogue.resolve("support@production", f"user-{n}").number for n in range(20)
    ]
    assert {catalogue.resolve("support:2", f"user-{n}").number for n in range(9)} == {2}


def test_an_alias_from_before_moves_were_kept_has_its_first(home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(home / "registry.db") as database:
        database.executescript((Path(__file__).parent / "before_revisions.sql").read_text())
    database.close()
    catalogue = open_catalogue(home)
    try:
        (first,) = moves(catalogue)
        alias = catalogue.get_alias(KEY, "production")
        assert (first.number, first.before, first.after) == (1, (), alias.targets)
        assert first.time == alias.update_time
        point(catalogue, 1)
        assert catalogue.rollback_alias(KEY, "production").targets == alias.targets
    finally:
        catalogue.close()
