"""Brings about what `merging` decides, between two steps: shadows are asked for, switched in, and dropped.

The loader makes the shadows beside the engine's thread; the switch itself is a pointer. Where another adapter is to be
merged, the one that was goes first, so that the shadows of two are never there at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Items
from concurrent.futures import Future
from dataclasses import replace

from lorry_registry.errors import Aborted, FailedPrecondition
from lorry_server.engine.automerge import AutoMerge
from lorry_server.engine.loader import AdapterLoader
from lorry_server.engine.loader_events import MergeFailed, MergeReady
from lorry_server.engine.lora.merged import Merged
from lorry_server.engine.merging import Situation, decide
from lorry_server.engine.plan import Chunk
from lorry_server.engine.request import RequestOutput
from lorry_server.engine.residency import Residency
from lorry_server.engine.residents import Residents
from lorry_server.engine.scheduler import Scheduler
from lorry_server.engine.stats import MergeCause, MergeInfo, ResidentInfo


class Merger:
    """Lives on the engine's thread; only the futures leave it."""

    def __init__(
        self,
        residency: Residency,
        scheduler: Scheduler,
        residents: Residents,
        loader: AdapterLoader,
        *,
        switch: Callable[[Merged | None], None],
        deliver: Callable[[Items[RequestOutput]], None],
        auto: AutoMerge | None,
    ) -> None:
        self.merges = 0
        self.info: MergeInfo | None = None
        self._residency = residency
        self._scheduler = scheduler
        self._residents = residents
        self._loader = loader
        self._switch = switch
        self._deliver = deliver
        self._auto = auto
        self._ordered: str | None = None
        self._orders: list[tuple[str, Future[MergeInfo]]] = []

    # What operators say.

    def merge(self, digest: str, future: Future[MergeInfo]) -> None:
        """Merges an adapter for as long as no operator says otherwise; brings it into a slot first."""
        self._give_up(digest)
        self._orders.append((digest, future))
        arrived: Future[ResidentInfo] = Future()
        arrived.add_done_callback(lambda done: self._arrived(digest, done))
        self._residents.load(digest, False, arrived)

    def unmerge(self, future: Future[None]) -> None:
        """Takes back what operators ordered, and drops what is merged."""
        self._give_up(None)
        self._ordered = None
        self._drop()
        if self._auto is not None:
            self._auto.forget()
        future.set_result(None)

    def expel(self, digest: str, error: Exception) -> None:
        """The adapter must go, whoever wants it merged."""
        if self.info is not None and self.info.digest == digest:
            self._drop()
        if self._ordered == digest:
            self._ordered = None
        self._refuse(digest, error)

    def fail_all(self, error: Exception) -> None:
        for _, future in self._orders:
            future.set_exception(error)
        self._orders = []

    # What the loader says.

    def on_event(self, event: MergeReady | MergeFailed) -> None:
        info = self.info
        if info is None or info.active or info.digest != event.digest:
            return  # nobody wants it any more
        if isinstance(event, MergeFailed):
            self._failed(event.digest, event.error)
            return
        resident = self._residency.get(event.digest)
        assert resident is not None  # held since its shadows were asked for
        merged = Merged(resident.slot, event.shadows)
        self._switch(merged)
        self._scheduler.merged = event.digest
        self.merges += 1
        self.info = MergeInfo(event.digest, info.cause, True, merged.size_bytes, event.seconds)
        self._answer(event.digest)

    # Between two steps.

    def account(self, chunks: Items[Chunk]) -> None:
        """Books a step that has run."""
        if self._auto is not None:
            tokens: Counter[str | None] = Counter()
            for chunk in chunks:
                tokens[chunk.sequence.adapter] += chunk.num_tokens
            self._auto.account(tokens)

    def settle(self) -> None:
        """Moves towards what is decided now."""
        self._refuse_wishes_against_orders()
        target, cause = decide(self._situation())
        if self.info is not None and self.info.digest != target:
            self._drop()
        if target is not None and self.info is None and self._residency.can_acquire(target):
            self._residency.hold_merged(target, ordered=cause == "operator")
            self.info = MergeInfo(target, cause, False, 0, 0.0)
            self._loader.merge(target)
        elif target is not None and self.info is not None and self.info.cause != cause:
            self._adopt(target, cause)

    def _situation(self) -> Situation:
        scheduler = self._scheduler
        current = None if self.info is None else self.info.digest
        return Situation(
            current=current,
            ordered=self._ordered,
            wish=scheduler.merge_wish,
            held=current is not None and scheduler.runs_merged(current),
            starved=scheduler.starved,
            others_run=any(sequence.adapter != current for sequence in scheduler.running),
            is_auto=self._auto is not None,
            pays=None if self._auto is None else self._auto.choose(current),
        )

    def _adopt(self, digest: str, cause: MergeCause) -> None:
        """Somebody else wants now what is merged already, or about to be."""
        assert self.info is not None
        self._residency.hold_merged(digest, ordered=cause == "operator")
        self.info = replace(self.info, cause=cause)
        self._answer(digest)

    def _drop(self) -> None:
        if self.info is not None:
            self._switch(None)
            self._scheduler.merged = None
            self._residency.let_go_merged(self.info.digest)
            self.info = None

    # Orders.

    def _arrived(self, digest: str, done: Future[ResidentInfo]) -> None:
        """The adapter is in its slot, or will not be."""
        error = done.exception()
        if error is not None:
            self._refuse(digest, error)
        elif any(ordered == digest for ordered, _ in self._orders):
            self._ordered = digest
            self._answer(digest)

    def _answer(self, digest: str) -> None:
        """Tells the operators who wait for it, where it is merged."""
        info = self.info
        if info is None or not info.active or info.digest != digest or self._ordered != digest:
            return
        for order in [order for order in self._orders if order[0] == digest]:
            self._orders.remove(order)
            order[1].set_result(info)

    def _failed(self, digest: str, error: Exception) -> None:
        self._drop()
        if self._ordered == digest:
            self._ordered = None
        if self._auto is not None:
            self._auto.give_up(digest)
        self._refuse(digest, error)
        self._deliver(self._scheduler.merge_failed(digest, error))

    def _refuse(self, digest: str, error: BaseException) -> None:
        for order in [order for order in self._orders if order[0] == digest]:
            self._orders.remove(order)
            order[1].set_exception(error)

    def _give_up(self, digest: str | None) -> None:
        """A later order takes the place of those for other adapters."""
        for order in [order for order in self._orders if order[0] != digest]:
            self._orders.remove(order)
            order[1].set_exception(
                Aborted(
                    f"Another order came before {order[0]} was merged; ask again.",
                    reason="MERGE_OVERTAKEN",
                    digest=order[0],
                )
            )

    def _refuse_wishes_against_orders(self) -> None:
        wish, ordered = self._scheduler.merge_wish, self._ordered
        if wish is not None and ordered not in (None, wish):
            error = FailedPrecondition(
                f"Adapter {ordered} is merged by an operator's order, and no other can be; ask for {wish} without "
                "execution MERGED, or have that one unmerged (lorry merge --off).",
                reason="MERGE_ORDERED",
                digest=wish,
                merged=ordered,
            )
            self._deliver(self._scheduler.merge_failed(wish, error))
