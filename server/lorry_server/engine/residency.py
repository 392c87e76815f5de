"""Which adapter is in which slot: the policy, without a byte of weights.

A slot is empty, being loaded, or ready. An adapter in a slot is held by the sequences that run with it; one that is
held, pinned or merged is never evicted. Among the rest the least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class Resident:
    """An adapter in a slot."""

    digest: str
    slot: int
    ready: bool = False
    references: int = 0  # running sequences
    pinned: bool = False
    merged: bool = False  # it is folded into the weights beside, or about to be
    merge_ordered: bool = False  # by an operator: it will not end by itself
    draining: bool = False  # no new sequence may hold it, for another adapter waits for its slot
    unloading: bool = False  # the same, for an operator wants it out
    last_used: float | None = None  # seconds, monotonic

    @property
    def stays(self) -> bool:
        """Whether no other adapter can have its slot."""
        return self.pinned or self.merged


@dataclass(frozen=True, slots=True)
class SlotLoad:
    """What the loader has to do: empty the slot, then put the adapter in."""

    digest: str
    slot: int
    evicted: str | None


class Residency:
    """The slots. Pairs: acquire/release, begin_load/finish_load or fail_load."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.evictions = 0
        self._empty = list(range(num_slots - 1, -1, -1))
        self._residents: OrderedDict[str, Resident] = OrderedDict()  # least recently used first

    def get(self, digest: str) -> Resident | None:
        return self._residents.get(digest)

    def residents(self) -> list[Resident]:
        return list(self._residents.values())

    @property
    def num_used(self) -> int:
        return self.num_slots - len(self._empty)

    @property
    def all_pinned(self) -> bool:
        """Whether no slot can ever come free by itself."""
        return not self._empty and all(
            resident.pinned or resident.merge_ordered for resident in self._residents.values()
        )

    def can_acquire(self, digest: str) -> bool:
        resident = self._residents.get(digest)
        return (
            resident is not None
            and resident.ready
            and not resident.draining
            and not resident.unloading
        )

    def acquire(self, digest: str, now: float) -> int:
        """Holds a ready adapter for one sequence; returns its slot."""
        resident = self._residents[digest]
        assert self.can_acquire(digest)
        resident.references += 1
        resident.last_used = now
        self._residents.move_to_end(digest)
        return resident.slot

    def release(self, digest: str) -> None:
        resident = self._residents[digest]
        assert resident.references > 0
        resident.references -= 1

    def begin_load(self, digest: str, protected: Collection[str] = ()) -> SlotLoad | None:
        """Reserves a slot for an adapter, evicting where needed; None where every slot is taken for good reason.

        `protected` are the adapters that older waiting requests want: taking their slots would only pass the wait on.
        """
        assert digest not in self._residents
        evicted: str | None = None
        if self._empty:
            slot = self._empty.pop()
        else:
            victim = self._victim(protected)
            if victim is None:
                return None
            del self._residents[victim.digest]
            self.evictions += 1
            slot, evicted = victim.slot, victim.digest
        self._residents[digest] = Resident(digest, slot)
        return SlotLoad(digest, slot, evicted)

    def finish_load(self, digest: str) -> None:
        self._residents[digest].ready = True

    def fail_load(self, digest: str) -> None:
        """Gives the slot of a load that failed back."""
        self._empty.append(self._residents.pop(digest).slot)

    def hold_merged(self, digest: str, *, ordered: bool) -> None:
        """Keeps a ready adapter in its slot while it is merged."""
        resident = self._residents[digest]
        resident.merged, resident.merge_ordered, resident.draining = True, ordered, False

    def let_go_merged(self, digest: str) -> None:
        resident = self._residents[digest]
        resident.merged = resident.merge_ordered = False

    def is_pinned(self, digest: str) -> bool:
        resident = self._residents.get(digest)
        return resident is not None and resident.pinned

    def drain_for_another(self, protected: Collection[str]) -> None:
        """Drains the adapter that will be free soonest, unless one is draining already.

        One of `protected` drains no longer: a preempted request that is older than the one in need waits for it.
        """
        candidates: list[Resident] = []
        for resident in self._residents.values():
            if resident.digest in protected:
                resident.draining = False
            elif resident.ready and not resident.stays:
                candidates.append(resident)
        if candidates and not any(resident.draining for resident in candidates):
            min(candidates, key=lambda resident: resident.references).draining = True

    def stop_draining(self) -> None:
        """Nobody has waited too long for a slot."""
        for resident in self._residents.values():
            resident.draining = False

    def remove(self, digest: str) -> int:
        """Empties the slot of an adapter that nobody holds; returns the slot."""
        resident = self._residents.pop(digest)
        assert resident.references == 0
        self._empty.append(resident.slot)
        return resident.slot

    def check_integrity(self) -> None:
        slots = [resident.slot for resident in self._residents.values()] + self._empty
        assert sorted(slots) == list(range(self.num_slots))
        assert all(resident.references >= 0 for resident in self._residents.values())

    def _victim(self, protected: Collection[str]) -> Resident | None:
        for resident in self._residents.values():
            free = resident.ready and resident.references == 0 and not resident.stays
            if free and resident.digest not in protected:
                return resident
        return None
