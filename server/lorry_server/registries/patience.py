"""Asking a registry that may hang: one question finds out, and no other has to.

A registry that is down refuses at once, and asking it again costs nothing. One that hangs costs every question its
whole time: so after one such answer the rest are told at once, while a single question in the background goes on.
"""

from __future__ import annotations

import asyncio
import time

from lorry_registry.errors import LorryError, Unavailable
from lorry_server.registries import Meaning, Registry

_SLOW_SECONDS = 0.5  # an Unavailable that took longer has cost a request something
_BETWEEN_PROBES_SECONDS = 1.0


class PatientRegistry:
    """The look-ups of a registry. Lives on the event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._hangs: Unavailable | None = None  # while it does
        self._probe: asyncio.Task[None] | None = None

    async def expand(self, reference: str) -> Meaning:
        """As the registry's; Unavailable at once while it hangs."""
        if self._hangs is not None:
            raise self._hangs.with_traceback(None)
        started = time.monotonic()
        try:
            return await self._registry.expand(reference)
        except Unavailable as error:
            if self._hangs is None and time.monotonic() - started >= _SLOW_SECONDS:
                self._hangs = error
                self._probe = asyncio.create_task(self._until_it_answers(reference))
            raise

    async def _until_it_answers(self, reference: str) -> None:
        try:
            while True:
                await asyncio.sleep(_BETWEEN_PROBES_SECONDS)
                try:
                    await self._registry.expand(reference)
                except Unavailable:
                    continue
                except LorryError:
                    pass  # an answer as well
                return
        finally:
            self._hangs = None
