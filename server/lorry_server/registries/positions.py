"""How far the registry's events go, asked once for all who want to know at that moment.

The way of a read index (Ongaro, "Consensus: Bridging theory and practice", 2014, section 6.4): an answer is worth
nothing to whoever asked after the question was sent, so those share the next one. However many requests come, one
question is under way and at most one waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Positions:
    """Lives on the event loop."""

    def __init__(self, ask: Callable[[], Awaitable[int]]) -> None:
        self._ask = ask
        self._next: asyncio.Future[int] | None = None
        self._asking: asyncio.Task[None] | None = None

    async def now(self) -> int:
        """A position that the events had reached after this was called. Raises what the question raises."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            if self._asking is None:
                self._asking = asyncio.create_task(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        while self._next is not None:
            answer, self._next = self._next, None
            try:
                answer.set_result(await self._ask())
            except Exception as error:
                answer.set_exception(error)
                answer.exception()  # whoever asked may have gone meanwhile
        self._asking = None
