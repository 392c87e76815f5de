"""Slots: who may stay, who goes first, and books that always agree."""

from __future__ import annotations

import random

import pytest

from lorry_server.engine.residency import Residency


def residency(slots: int, *digests: str) -> Residency:
    """Slots with adapters in them, the first one least recently used."""
    made = Residency(slots)
    for digest in digests:
        assert made.begin_load(digest) is not None
        made.finish_load(digest)
    return made


def test_empty_slots_are_taken_first() -> None:
    slots = residency(3, "a", "b")
    load = slots.begin_load("c")
    assert load is not None
    assert load.evicted is None
    assert slots.num_used == 3
    assert slots.evictions == 0


def test_the_least_recently_used_goes_first() -> None:
    slots = residency(3, "a", "b", "c")
    slots.acquire("a", now=1.0)
    slots.release("a")
    evicted = [slots.begin_load(digest) for digest in ("d", "e")]
    assert [load and load.evicted for load in evicted] == ["b", "c"]
    assert slots.evictions == 2
    assert slots.get("b") is None
    assert slots.get("a") is not None


def test_an_adapter_in_use_stays() -> None:
    """The rows of its slot are being read."""
    slots = residency(2, "a", "b")
    slots.acquire("a", now=1.0)
    slots.acquire("b", now=1.0)
    assert slots.begin_load("c") is None
    slots.release("b")
    load = slots.begin_load("c")
    assert load is not None
    assert load.evicted == "b"


def test_a_pinned_adapter_stays() -> None:
    slots = residency(2, "a", "b")
    for digest in "ab":
        resident = slots.get(digest)
        assert resident is not None
        assert not slots.all_pinned
        resident.pinned = True
    assert slots.all_pinned
    assert slots.is_pinned("a")
    assert not slots.is_pinned("c")
    assert slots.begin_load("c") is None


def test_an_adapter_that_is_being_loaded_stays() -> None:
    slots = residency(1)
    assert slots.begin_load("a") is not None
    assert not slots.can_acquire("a")
    assert slots.begin_load("b") is None
    slots.finish_load("a")
    assert slots.can_acquire("a")
    assert slots.begin_load("b") is not None


def test_protected_adapters_stay() -> None:
    """Older requests wait for them: to take their slots would only pass the wait on."""
    slots = residency(2, "a", "b")
    load = slots.begin_load("c", protected={"a"})
    assert load is not None
    assert load.evicted == "b"
    assert slots.begin_load("d", protected={"a", "c"}) is None


def test_a_failed_load_gives_its_slot_back() -> None:
    slots = residency(1)
    load = slots.begin_load("a")
    assert load is not None
    slots.fail_load("a")
    assert slots.get("a") is None
    assert slots.num_used == 0
    again = slots.begin_load("b")
    assert again is not None
    assert (again.slot, again.evicted) == (load.slot, None)


def test_draining_takes_one_at_a_time_and_the_least_busy() -> None:
    slots = residency(3, "a", "b", "c")
    for digest, references in (("a", 3), ("b", 1), ("c", 2)):
        for _ in range(references):
            slots.acquire(digest, now=0.0)
    slots.drain_for_another(protected={"b"})
    slots.drain_for_another(protected={"b"})
    assert [slots.can_acquire(digest) for digest in "abc"] == [True, True, False]
    slots.stop_draining()
    assert slots.can_acquire("c")


def test_a_pinned_adapter_is_not_drained_for_another() -> None:
    slots = residency(1, "a")
    resident = slots.get("a")
    assert resident is not None
    resident.pinned = True
    slots.drain_for_another(protected=())
    assert slots.can_acquire("a")


def test_an_unloading_adapter_takes_no_new_sequence() -> None:
    slots = residency(1, "a")
    slots.acquire("a", now=0.0)
    resident = slots.get("a")
    assert resident is not None
    resident.unloading = True
    assert not slots.can_acquire("a")
    slots.release("a")
    slots.remove("a")
    assert slots.num_used == 0
    slots.check_integrity()


@pytest.mark.parametrize("seed", range(6))
def test_books_agree_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    slots = Residency(4)
    names = "abcdefgh"
    held: list[str] = []
    loading: list[str] = []
    for now in range(1500):
        digest = rng.choice(names)
        resident = slots.get(digest)
        act = rng.random()
        if act < 0.3:
            if slots.can_acquire(digest):
                slots.acquire(digest, float(now))
                held.append(digest)
        elif act < 0.55 and held:
            slots.release(held.pop(rng.randrange(len(held))))
        elif act < 0.75 and resident is None:
            protected = set(rng.sample(names, 2))
            load = slots.begin_load(digest, protected)
            if load is not None:
                assert load.evicted not in {*held, *loading, *protected}
                loading.append(digest)
        elif act < 0.85 and loading:
            done = loading.pop(rng.randrange(len(loading)))
            slots.finish_load(done) if rng.random() < 0.8 else slots.fail_load(done)
        elif act < 0.9 and resident is not None and resident.ready:
            resident.pinned = not resident.pinned
        elif act < 0.93:
            slots.drain_for_another(protected=set(rng.sample(names, 3)))
        elif act < 0.95:
            slots.stop_draining()
        elif resident is not None and resident.ready and resident.references == 0:
            slots.remove(digest)
        slots.check_integrity()
        residents = {each.digest: each for each in slots.residents()}
        assert set(held) <= residents.keys()
        assert all(each.references == held.count(name) for name, each in residents.items())
    assert slots.evictions > 0
