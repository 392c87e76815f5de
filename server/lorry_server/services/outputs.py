"""How outputs cross from the engine's thread to the event loop: one call a step, whatever the number of requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lorry_server.engine.request import RequestOutput


@dataclass(frozen=True, slots=True)
class Delivery:
    """An output, and when the engine gave it away: how slowly a client reads does not show in it."""

    output: RequestOutput
    moment: float  # time.monotonic() seconds


class OutputDispatcher:
    """Hands every output of the engine to the queue of its request.

    The queues are unbounded on purpose. A request's `max_tokens` is, and a client that does not read must not hold up
    a step that it shares with others: what waits for it is at most one context of token ids for each sequence.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[str, asyncio.Queue[Delivery]] = {}
        self._unfinished: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def sink(self, outputs: Sequence[RequestOutput]) -> None:
        """Called on the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, tuple(outputs), time.monotonic())

    def open(self, *request_ids: str) -> asyncio.Queue[Delivery]:
        """One queue for them all, before they are submitted."""
        queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self._queues.update(dict.fromkeys(request_ids, queue))
        self._unfinished.update(request_ids)
        self._idle.clear()
        return queue

    def finished(self, request_id: str) -> None:
        """The engine has no more of it, even where it has not said so."""
        self._unfinished.discard(request_id)

    def close(self, *request_ids: str) -> None:
        """Outputs that still come are nobody's."""
        for request_id in request_ids:
            self._queues.pop(request_id, None)
            self._unfinished.discard(request_id)
        if not self._queues:
            self._idle.set()

    def fail(self, request_id: str, error: Exception) -> bool:
        """Ends a request with an error, unless its last output is here; what the engine still says is nobody's."""
        if request_id not in self._unfinished:
            return False
        self._unfinished.discard(request_id)
        output = RequestOutput(request_id, error=error)
        self._queues[request_id].put_nowait(Delivery(output, time.monotonic()))
        return True

    @property
    def num_open(self) -> int:
        return len(self._queues)

    @property
    def num_unfinished(self) -> int:
        """Open sequences that the engine still has; what has only to be read by its client does not count."""
        return len(self._unfinished)

    async def idle(self) -> None:
        """Returns once no sequence is open."""
        await self._idle.wait()

    def _deliver(self, outputs: Sequence[RequestOutput], moment: float) -> None:
        for output in outputs:
            if output.request_id in self._unfinished:
                self._queues[output.request_id].put_nowait(Delivery(output, moment))
                if output.finished:
                    self.finished(output.request_id)
