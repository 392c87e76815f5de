"""Following a registry's events: what it says is passed on in order, and how long it has said nothing is known."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from lorry_registry.errors import Internal, LorryError, OutOfRange, Unavailable
from lorry_registry.events import Event
from lorry_registry.watching import Batch
from lorry_server.registries import Registry

_log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
_SILENCE_SECONDS = 5.0  # without a word, and the line is taken for dead
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.1, 2.0


class Follower:
    """One watch, taken up again whenever it breaks. Lives on the event loop; `position` and the like on any thread.

    The listeners, set before it starts:
        on_events: called with the events of a batch, in order, before `position` moves on.
        on_gap: called where events may have been missed: with the first message ever, and where what was missed is kept
            no longer. What was known before holds no more.
        on_connection: called with whether the watch is up, whenever that changes.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.position = 0  # everything up to there has been passed on
        self.connected = False
        self.num_events = 0
        self.on_events: Callable[[Sequence[Event]], None] = lambda _: None
        self.on_gap: Callable[[], None] = lambda: None
        self.on_connection: Callable[[bool], None] = lambda _: None
        self._heard = time.monotonic()
        self._token = ""

    @property
    def silence_seconds(self) -> float:
        """How long ago the last event or bookmark came; counted from the start where none came yet."""
        return time.monotonic() - self._heard

    async def run(self) -> None:
        """Follows until it is cancelled."""
        retry_seconds = _FIRST_RETRY_SECONDS
        while True:
            try:
                async with aclosing(self.registry.watch(self._token, HEARTBEAT_SECONDS)) as batches:  # type: ignore[type-var]
                    while True:
                        async with asyncio.timeout(_SILENCE_SECONDS):
                            batch = await anext(batches)
                        self._take(batch)
                        retry_seconds = _FIRST_RETRY_SECONDS
            except OutOfRange as error:
                _log.warning("Events were missed: %s", error)
                self._token = ""
                self._set_connected(False, error)
            except TimeoutError:
                self._set_connected(False, _silent(self.registry.name))
            except StopAsyncIteration:
                self._set_connected(False, _silent(self.registry.name))
            except LorryError as error:
                self._set_connected(False, error)
            except Exception as error:
                # What an event should have led to is not certain to have happened: begin anew, and trust nothing.
                _log.exception("Following the registry failed; it begins anew.")
                self._token = ""
                self._set_connected(False, Internal(f"{error}", reason="FOLLOWING_FAILED"))
            await asyncio.sleep(retry_seconds)
            retry_seconds = min(2 * retry_seconds, _LAST_RETRY_SECONDS)

    def _take(self, batch: Batch) -> None:
        self._heard = time.monotonic()
        if not self._token:
            self.on_gap()
        if batch.events:
            self.num_events += len(batch.events)
            self.on_events(batch.events)
        self._token, self.position = batch.resume_token, batch.position
        self._set_connected(True)

    def _set_connected(self, connected: bool, error: LorryError | None = None) -> None:
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            _log.info("The events of the registry are followed.")
        else:
            _log.warning("%s What is known is served on, until the registry is heard again.", error)
        self.on_connection(connected)


def _silent(name: str) -> Unavailable:
    return Unavailable(
        f"The registry ({name}) has said nothing for {_SILENCE_SECONDS:g} s.",
        reason="REGISTRY_UNAVAILABLE",
    )
