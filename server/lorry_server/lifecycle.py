"""How a server ends: told to, or because its engine died. Either way everybody who waits is answered first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from lorry_registry.rpc.host import GrpcHost

_POLL_SECONDS = 0.1
_FAREWELL_SECONDS = 1.0  # for calls that are no generations; health watchers would stay for ever


class MortalEngine(Protocol):
    """What ends with the server."""

    @property
    def failed(self) -> BaseException | None: ...

    def stop(self, *, drain_seconds: float) -> None: ...


class Draining(Protocol):
    """What refuses new work while the old goes on."""

    def drain(self) -> None: ...


async def until_failed(engine: MortalEngine) -> BaseException:
    """Returns what the engine died of."""
    while engine.failed is None:  # noqa: ASYNC110 (an engine is a thread, and sets no event of ours)
        await asyncio.sleep(_POLL_SECONDS)
    return engine.failed


async def shut_down(
    *,
    host: GrpcHost,
    inference: Draining,
    engine: MortalEngine,
    interrupt: Callable[[], None],
    idle: Callable[[], Awaitable[None]],
    drain_seconds: float,
) -> None:
    """Refuses what is new, lets streams finish within `drain_seconds`, answers the rest, stops.

    `interrupt` ends the reads from a registry: nobody waits for what they would bring any more.
    """
    await host.health.enter_graceful_shutdown()
    inference.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(drain_seconds):
            await idle()
    # Whatever still runs is told so by the engine; the answers go out while the door closes.
    interrupt()
    await asyncio.to_thread(engine.stop, drain_seconds=0.0)
    await host.stop(_FAREWELL_SECONDS)
