"""Threads for what may hang: jobs that wait on a network."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable


class Downloads:
    """Jobs on a few daemon threads: one that hangs keeps the process from nothing, its end included."""

    def __init__(self, num_threads: int) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"lorry-fetch-{n}", daemon=True)
            for n in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def stop(self, seconds: float) -> None:
        """Drops what has not begun; waits for what has, within `seconds`."""
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._jobs.put(None)
        give_up = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
