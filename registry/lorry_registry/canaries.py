"""Which of an alias's versions a request gets, where several share the requests by weight.

Weighted rendezvous hashing: every target draws an exponentially distributed number, its weight being the rate, out of
a hash of the salt, the request's key and the target's digest; the smallest wins. A target's share is then its
weight's, and where weights change, only keys of targets that lost share move, and only to those that gained. Nothing
has to be remembered, so every server and every registry chooses alike.

Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (IEEE/ACM Transactions on
Networking 6(1), 1998). The weights: Schindelhauer and Schomaker, "Weighted distributed hash tables" (SPAA 2005), their
logarithmic method, -ln(u) / weight.
"""

import hashlib
import math
from collections.abc import Sequence

from lorry_registry.errors import InvalidArgument

MAX_TARGETS = 16
MAX_WEIGHT = 1_000_000
MAX_STICKY_KEY_BYTES = 256

_BITS = 53  # what a float holds exactly


def choose(targets: Sequence[tuple[str, int]], *, salt: str, key: bytes) -> int:
    """The index of the target, of (digest, weight) pairs with weights of at least 1, that a request with `key` gets."""
    if len(targets) == 1:
        return 0
    draws = [_uniform(salt, key, digest) for digest, _ in targets]
    return min(
        range(len(targets)), key=lambda at: (-math.log(draws[at]) / targets[at][1], targets[at][0])
    )


def heaviest(weights: Sequence[int]) -> int:
    """The index of the target that most requests get; of equal ones the first."""
    return max(range(len(weights)), key=lambda at: weights[at])


def check_sticky_key(key: str) -> bytes:
    """The key's bytes. Raises InvalidArgument `STICKY_KEY_INVALID` where there are too many."""
    raw = key.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_STICKY_KEY_BYTES:
        raise InvalidArgument(
            f"sticky_key has {len(raw)} bytes, more than {MAX_STICKY_KEY_BYTES}: send a hash of it",
            reason="STICKY_KEY_INVALID",
            max_bytes=MAX_STICKY_KEY_BYTES,
        )
    return raw


def _uniform(salt: str, key: bytes, digest: str) -> float:
    """In (0, 1), neither end included. The parts are hashed with their lengths, so that none runs into the next."""
    parts = (salt.encode(), key, digest.encode())
    told = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    drawn = int.from_bytes(hashlib.sha256(told).digest()[:8], "big") >> (64 - _BITS)
    return (drawn + 0.5) / (1 << _BITS)
