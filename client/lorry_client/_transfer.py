"""What push and pull share: how long they go on trying over a bad connection."""

from __future__ import annotations

from lorry_client._steps import Pause, Steps
from lorry_client.errors import LorryError

CHUNK_BYTES = 1024 * 1024
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.2


class Patience:
    """Bears a few failures in a row, each with a longer pause; progress restores it."""

    def __init__(self) -> None:
        self._failures = 0
        self._furthest = 0

    def reached(self, offset: int) -> None:
        """Notes how far the transfer is."""
        if offset > self._furthest:
            self._furthest = offset
            self._failures = 0

    def bear(self, failure: LorryError) -> Steps[None]:
        """Pauses, or gives up and raises the failure."""
        self._failures += 1
        if self._failures >= ATTEMPTS:
            raise failure
        yield Pause(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1))
