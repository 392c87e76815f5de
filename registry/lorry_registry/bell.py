"""Wakes whoever waits for a change of the catalogue: commits ring, event loops listen."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Bell:
    """Rings after every commit of this process, and after others' as far as somebody hears of them.

    A ring says that there may be something new, and no more: who hears it looks. Any thread may ring.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._first: Callable[[], None] | None = None
        self.closed = False

    def on_first_listener(self, call: Callable[[], None]) -> None:
        """Called once, when somebody listens for the first time."""
        self._first = call

    def ring(self) -> None:
        with self._lock:
            listeners = list(self._listeners.items())
        for event, loop in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """Rings for the last time: who listens ends."""
        self.closed = True
        self.ring()

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that every ring sets, and that the listener clears before it looks."""
        event = asyncio.Event()
        with self._lock:
            self._listeners[event] = asyncio.get_running_loop()
            first, self._first = self._first, None
        if first is not None:
            first()
        try:
            yield event
        finally:
            with self._lock:
                del self._listeners[event]
