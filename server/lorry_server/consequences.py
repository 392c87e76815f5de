"""What follows from the registry's events: meanings are asked for anew, and what is blocked is ended and unloaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Protocol

from lorry_registry.errors import FailedPrecondition, LorryError
from lorry_registry.events import Event, EventKind
from lorry_server.adapters import AdapterDirectory, version_blocked
from lorry_server.cache import AdapterCache
from lorry_server.engine.stats import EngineStats

_log = logging.getLogger(__name__)


class ExpellingEngine(Protocol):
    """What can be made to let go of an adapter."""

    def expel(self, digest: str, error: Exception) -> Future[None]: ...

    def stats(self) -> EngineStats: ...


class Generating(Protocol):
    """What has generations in flight."""

    def references_in_flight(self) -> set[str]: ...

    def end(self, reference: str, error: LorryError) -> None: ...


class Consequences:
    """Lives on the event loop, and never waits there: a block takes effect before the next event is looked at."""

    def __init__(
        self,
        *,
        adapters: AdapterDirectory,
        inference: Generating,
        engine: ExpellingEngine,
        cache: AdapterCache,
    ) -> None:
        self._adapters = adapters
        self._inference = inference
        self._engine = engine
        self._cache = cache
        self._rechecks: set[asyncio.Task[None]] = set()

    def on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self._adapters.notice(event)
            if event.kind is EventKind.VERSION_BLOCKED:
                error = version_blocked(f"{event.key}:{event.version}", event.why)
                self._end(f"{event.key}@{event.digest}", event.digest, error)

    def on_gap(self) -> None:
        """Events were missed. What runs may be blocked by now: it is asked for again."""
        self._adapters.missed_events()
        references = self._inference.references_in_flight()
        if references:
            task = asyncio.create_task(self._recheck(references))
            self._rechecks.add(task)
            task.add_done_callback(self._rechecks.discard)

    async def _recheck(self, references: Iterable[str]) -> None:
        for reference in references:
            try:
                await self._adapters.resolve(reference)
            except FailedPrecondition as error:
                if error.reason == "VERSION_BLOCKED":
                    self._end(reference, reference.partition("@")[2], error)
            except (
                LorryError
            ) as error:  # gone, or the registry with it: what runs may end by itself
                _log.info("%s runs on: %s", reference, error)

    def _end(self, reference: str, digest: str, error: FailedPrecondition) -> None:
        _log.warning("%s", error)
        self._inference.end(reference, error)
        for held in {digest, *self._compositions_of(digest)}:
            self._engine.expel(held, error)

    def _compositions_of(self, digest: str) -> Iterable[str]:
        for info in self._engine.stats().residents:
            recipe = self._cache.recipe(info.digest)
            if recipe is not None and any(term.digest == digest for term in recipe.terms):
                yield info.digest
