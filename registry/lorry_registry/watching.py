"""Following the events: a stream that says everything once, in order, and something every so often."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from lorry_registry.errors import InvalidArgument, Unavailable
from lorry_registry.events import Event, decode_resume_token, encode_resume_token
from lorry_registry.store import Store

DEFAULT_HEARTBEAT_SECONDS = 5.0
MIN_HEARTBEAT_SECONDS, MAX_HEARTBEAT_SECONDS = 0.1, 60.0
_EVENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """What is new, and the token to go on with. Without events it is a bookmark: nothing came up to its position."""

    resume_token: str
    position: int
    events: tuple[Event, ...] = ()


def check_heartbeat(seconds: float) -> float:
    """Raises InvalidArgument `HEARTBEAT_INVALID`."""
    if not MIN_HEARTBEAT_SECONDS <= seconds <= MAX_HEARTBEAT_SECONDS:
        raise InvalidArgument(
            f"heartbeat is {seconds:g} s: choose one from {MIN_HEARTBEAT_SECONDS:g} s to {MAX_HEARTBEAT_SECONDS:g} s",
            reason="HEARTBEAT_INVALID",
            seconds=seconds,
        )
    return seconds


async def watch(
    store: Store,
    *,
    resume_token: str = "",
    where: Callable[[Event], bool] = lambda _: True,
    heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS,
) -> AsyncIterator[Batch]:
    """Every event after the token's, in order, for ever; without a token, from now on.

    The first batch comes at once. Raises OutOfRange `RESUME_TOKEN_EXPIRED`, also of a watcher that reads so slowly
    that what it has not read is kept no longer; Unavailable `DRAINING` where the registry stops.
    """
    check_heartbeat(heartbeat_seconds)
    log = await asyncio.to_thread(store.event_log)
    position = decode_resume_token(resume_token, log) if resume_token else log.position
    told = False  # whether the watcher knows of this position
    with store.bell.listening() as rung:
        while True:
            rung.clear()
            if store.bell.closed:
                raise Unavailable(
                    "the registry is stopping: watch again, with the last token", reason="DRAINING"
                )
            events = await asyncio.to_thread(
                store.list_events, after=position, limit=_EVENTS_AT_ONCE
            )
            if events or not told:
                position = events[-1].position if events else position
                yield Batch(
                    encode_resume_token(log.log_id, position),
                    position,
                    tuple(event for event in events if where(event)),
                )
                told = True
                continue
            try:
                await asyncio.wait_for(rung.wait(), heartbeat_seconds)
            except TimeoutError:
                told = False  # a bookmark is due, once it is sure that nothing came
