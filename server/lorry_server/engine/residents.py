"""What the loader brought and what operators asked for, booked between two steps.

The residency decides about slots, the loader moves bytes; this is the correspondence between them: events in, wishes
answered once they have come true or cannot.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from concurrent.futures import Future
from types import MappingProxyType

from lorry_registry.errors import FailedPrecondition, ResourceExhausted
from lorry_server.engine.effect import Probe, check_effect
from lorry_server.engine.loader import AdapterLoader
from lorry_server.engine.loader_events import Fetched, Loaded, LoaderEvent
from lorry_server.engine.request import RequestOutput
from lorry_server.engine.residency import Residency, Resident
from lorry_server.engine.scheduler import Scheduler
from lorry_server.engine.stats import LoadTotals, ResidentInfo, Tier

_REMEMBERED = 10_000  # adapters: every composition that anybody asks for is one


class Residents:
    """Lives on the engine's thread; only the futures leave it."""

    def __init__(
        self,
        residency: Residency,
        scheduler: Scheduler,
        loader: AdapterLoader,
        deliver: Callable[[Items[RequestOutput]], None],
        measure: Callable[[int, Probe], float],
    ) -> None:
        """`measure` is asked once for each digest: what the adapter in a slot changes."""
        self._residency = residency
        self._scheduler = scheduler
        self._loader = loader
        self._deliver = deliver
        self._measure = measure
        self._effects: dict[str, float] = {}  # by digest; the base is one and the same
        self._arrived: dict[str, Fetched | Loaded] = {}  # the latest news of each adapter in memory
        self._loads: list[tuple[str, bool, Future[ResidentInfo]]] = []
        self._unloads: list[tuple[str, Future[None]]] = []
        self._totals: dict[Tier, LoadTotals] = {"host": LoadTotals(), "slot": LoadTotals()}

    # What the loader says.

    def on_event(self, event: LoaderEvent) -> None:
        digest = event.digest
        if isinstance(event, Fetched):
            self._count("host", event)
            self._scheduler.fetched(digest, event.virtual)
        elif isinstance(event, Loaded):
            self._count("slot", event)
            self._finish(event)
        else:
            self._fail(digest, event.error, in_slot=event.in_slot)

    def _finish(self, event: Loaded) -> None:
        """What was loaded must act before anybody runs with it."""
        digest, resident = event.digest, self._residency.get(event.digest)
        assert resident is not None
        try:
            if digest not in self._effects:
                self._effects[digest] = self._measure(resident.slot, event.probe)
            check_effect(digest, self._effects[digest], event.probe)
        except FailedPrecondition as error:
            self._loader.clear(resident.slot)
            self._fail(digest, error, in_slot=True)
        else:
            self._residency.finish_load(digest)

    def _fail(self, digest: str, error: Exception, *, in_slot: bool) -> None:
        if in_slot:
            self._residency.fail_load(digest)
        self._deliver(self._scheduler.fetch_failed(digest, error))
        self._refuse(digest, error)

    def _count(self, tier: Tier, event: Fetched | Loaded) -> None:
        self._arrived.pop(event.digest, None)
        self._arrived[event.digest] = event  # the latest at the end
        if len(self._arrived) > _REMEMBERED:
            self._forget_one()
        self._totals[tier] = self._totals[tier].plus(event.seconds, event.size_bytes)

    def _forget_one(self) -> None:
        """The adapter that came first of those in no memory any more: if it comes again, it comes as new."""
        for digest in self._arrived:
            if self._residency.get(digest) is None and digest not in self._loader.host:
                del self._arrived[digest]
                self._effects.pop(digest, None)
                self._scheduler.forget(digest)
                return

    # What operators say.

    def load(self, digest: str, pin: bool, future: Future[ResidentInfo]) -> None:
        self._loads.append((digest, pin, future))
        self._scheduler.wishes[digest] = None

    def pin(self, digest: str, pinned: bool, future: Future[ResidentInfo]) -> None:
        resident = self._ready(digest, future)
        if resident is not None and resident.unloading:
            future.set_exception(
                FailedPrecondition(
                    f"Adapter {digest} is being unloaded; load it again afterwards.",
                    reason="UNLOADING",
                    digest=digest,
                )
            )
        elif resident is not None:
            resident.pinned = pinned
            resident.draining &= not pinned
            future.set_result(self._info(resident, self._scheduler.in_flight()))

    def unload(self, digest: str, future: Future[None]) -> None:
        resident = self._ready(digest, future)
        if resident is None:
            return
        if resident.pinned:
            future.set_exception(
                FailedPrecondition(
                    f"Adapter {digest} is pinned; unpin it first.", reason="PINNED", digest=digest
                )
            )
            return
        if resident.merged:
            future.set_exception(
                FailedPrecondition(
                    f"Adapter {digest} is merged into the weights; unmerge it first (lorry merge --off).",
                    reason="MERGED",
                    digest=digest,
                )
            )
            return
        resident.unloading = True
        self._unloads.append((digest, future))

    def expel(self, digest: str, error: Exception, future: Future[None]) -> None:
        self._scheduler.wishes.pop(digest, None)
        self._refuse(digest, error)
        self._loader.host.drop(digest)
        resident = self._residency.get(digest)
        if resident is not None:
            resident.pinned = False
            resident.unloading = True
        self._unloads.append((digest, future))

    def settle(self) -> None:
        """Answers the wishes that have come true, or cannot."""
        for digest in self._scheduler.take_refused_wishes():
            self._refuse(
                digest,
                ResourceExhausted(
                    f"All {self._residency.num_slots} slots are pinned or in use; unpin or unload an adapter, "
                    "or wait for its requests to end.",
                    reason="NO_FREE_SLOT",
                    slots=self._residency.num_slots,
                ),
            )
        for wish in list(self._loads):
            digest, pin, future = wish
            if self._residency.can_acquire(digest):
                self._loads.remove(wish)
                self.pin(digest, pin or self._residency.is_pinned(digest), future)
        for unload in list(self._unloads):
            digest, done = unload
            resident = self._residency.get(digest)
            if resident is not None and resident.unloading:
                if resident.references > 0 or not resident.ready:
                    continue
                self._loader.clear(self._residency.remove(digest))
            # Else it left its slot for another adapter; one that is on its way back in is not meant.
            self._unloads.remove(unload)
            done.set_result(None)

    def fail_all(self, error: Exception) -> None:
        for _, _, load in self._loads:
            load.set_exception(error)
        for _, unload in self._unloads:
            unload.set_exception(error)
        self._loads, self._unloads = [], []

    # What is to be seen.

    def infos(self) -> tuple[ResidentInfo, ...]:
        """Slots first, then host memory."""
        in_flight = self._scheduler.in_flight()
        slots = [self._info(r, in_flight) for r in self._residency.residents() if r.ready]
        known = {info.digest for info in slots}
        host = [
            ResidentInfo(
                digest,
                "host",
                news.rank,
                news.size_bytes,
                False,
                in_flight[digest],
                0.0,
                None,
                self._effects.get(digest),
            )
            for digest, news in self._arrived.items()
            if digest not in known and digest in self._loader.host
        ]
        return (*slots, *host)

    def totals(self) -> Mapping[Tier, LoadTotals]:
        return MappingProxyType(dict(self._totals))

    def _info(self, resident: Resident, in_flight: Counter[str]) -> ResidentInfo:
        news = self._arrived[resident.digest]
        ago = None if resident.last_used is None else time.monotonic() - resident.last_used
        return ResidentInfo(
            digest=resident.digest,
            tier="slot",
            rank=news.rank,
            size_bytes=news.size_bytes,
            pinned=resident.pinned,
            merged=resident.merged,
            in_flight=in_flight[resident.digest],
            load_seconds=news.seconds,
            last_used=None if ago is None else time.time() - ago,
            logit_change=self._effects.get(resident.digest),
        )

    def _ready(self, digest: str, future: Future[ResidentInfo] | Future[None]) -> Resident | None:
        resident = self._residency.get(digest)
        if resident is not None and resident.ready:
            return resident
        future.set_exception(
            FailedPrecondition(
                f"Adapter {digest} is in no slot; load it first.",
                reason="NOT_RESIDENT",
                digest=digest,
            )
        )
        return None

    def _refuse(self, digest: str, error: Exception) -> None:
        for wish in [wish for wish in self._loads if wish[0] == digest]:
            self._loads.remove(wish)
            wish[2].set_exception(error)
