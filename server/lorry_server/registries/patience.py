"""Asking a registry that may hang: one question finds out, and no other has to.

A registry that is down refuses at once, and asking it again costs nothing. One that hangs costs every question its
whole time: so after one such answer the rest are told at once, while a single question in the background goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lorry_registry.errors import LorryError, Unavailable
from lorry_server.registries import Meaning, Registry

_T = TypeVar("_T")

_SLOW_SECONDS = 0.5  # an Unavailable that took longer has cost a request something
_BETWEEN_PROBES_SECONDS = 1.0


class PatientRegistry:
    """The look-ups of a registry. Lives on the event loop. Unavailable at once while the registry hangs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._hangs: Unavailable | None = None  # while it does
        self._probe: asyncio.Task[None] | None = None

    async def expand(self, reference: str) -> Meaning:
        return await self._ask(lambda: self._registry.expand(reference))

    async def position(self) -> int:
        return await self._ask(self._registry.position)

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        if self._hangs is not None:
            raise self._hangs.with_traceback(None)
        started = time.monotonic()
        try:
            return await question()
        except Unavailable as error:
            if self._hangs is None and time.monotonic() - started >= _SLOW_SECONDS:
                self._hangs = error
                self._probe = asyncio.create_task(self._until_it_answers(question))
            raise

    async def _until_it_answers(self, question: Callable[[], Awaitable[object]]) -> None:
        try:
            while True:
                await asyncio.sleep(_BETWEEN_PROBES_SECONDS)
                try:
                    await question()
                except Unavailable:
                    continue
                except LorryError:
                    pass  # an answer as well
                return
        finally:
            self._hangs = None
