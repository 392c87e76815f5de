"""How outputs cross from the engine's thread to the event loop: one call a step, whatever the number of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lorry_server.engine.request import RequestOutput


class OutputDispatcher:
    """Hands every output of the engine to the queue of its request.

    The queues are unbounded on purpose. A request's `max_tokens` is, and a client that does not read must not hold up
    a step that it shares with others: what waits for it is at most one context of token ids.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[str, asyncio.Queue[RequestOutput]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def sink(self, outputs: Sequence[RequestOutput]) -> None:
        """Called on the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, tuple(outputs))

    def open(self, request_id: str) -> asyncio.Queue[RequestOutput]:
        """Before the request is submitted."""
        queue: asyncio.Queue[RequestOutput] = asyncio.Queue()
        self._queues[request_id] = queue
        self._idle.clear()
        return queue

    def close(self, request_id: str) -> None:
        """Outputs that still come are nobody's."""
        self._queues.pop(request_id, None)
        if not self._queues:
            self._idle.set()

    @property
    def num_open(self) -> int:
        return len(self._queues)

    async def idle(self) -> None:
        """Returns once no request is open."""
        await self._idle.wait()

    def _deliver(self, outputs: Sequence[RequestOutput]) -> None:
        for output in outputs:
            if (queue := self._queues.get(output.request_id)) is not None:
                queue.put_nowait(output)
