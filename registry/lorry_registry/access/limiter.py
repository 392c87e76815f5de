"""How much a namespace may use in a minute: buckets that fill as time passes, kept by each process for itself."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lorry_registry.errors import ResourceExhausted

_MAX_BUCKETS = 10_000
_SECONDS = 60.0


@dataclass(slots=True)
class _Bucket:
    level: float
    moment: float


class RateLimiter:
    """Buckets by key. Not for several threads: it lives on an event loop.

    A bucket holds what a whole minute allows, so that a burst of it passes at once; it may go below zero, where what a
    request costs is known only after it ran, and nothing passes until that is made up for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # least recently used first

    def take(self, key: str, per_minute: int, amount: int = 1) -> float:
        """Takes the amount where there is anything in the bucket; else returns the seconds until there is."""
        if per_minute <= 0:
            return 0.0
        bucket = self._filled(key, per_minute)
        if bucket.level < 1:
            return (1 - bucket.level) * _SECONDS / per_minute
        bucket.level -= amount
        return 0.0

    def charge(self, key: str, per_minute: int, amount: int) -> None:
        """Takes the amount, whatever there is."""
        if per_minute > 0:
            self._filled(key, per_minute).level -= amount

    def _filled(self, key: str, per_minute: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(float(per_minute), now))
        bucket.level = min(
            float(per_minute), bucket.level + (now - bucket.moment) * per_minute / _SECONDS
        )
        bucket.moment = now
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket


def too_fast(namespace: str, what: str, per_minute: int, seconds: float) -> ResourceExhausted:
    """What a caller is told whose namespace has used up its minute."""
    return ResourceExhausted(
        f"namespace {namespace} may use {per_minute} {what} a minute and has used them: retry in "
        f"{math.ceil(seconds)} s, or ask an administrator for a larger quota",
        reason="RATE_EXCEEDED",
        namespace=namespace,
        quota=f"{what}_per_minute",
        limit=per_minute,
        retry_after_seconds=round(seconds, 3),
    )
