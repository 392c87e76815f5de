"""Page tokens: where the next page starts, and for which question.

A token is opaque to callers. It carries the key of the last entity (never an offset, so that rows coming and going
between pages neither repeat nor hide others) and a hash of the request's other arguments, so that a token sent
with another question is refused instead of answered wrongly. It carries no authority.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lorry_registry.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some entities in order, and the token that asks for those after them; empty on the last page."""

    items: tuple[T, ...]
    next_token: str


def clip_page_size(page_size: int) -> int:
    """The size to use: 0 means the default, too much means the maximum. Raises InvalidArgument below 0."""
    if page_size < 0:
        raise InvalidArgument(
            f"page_size {page_size} is negative: leave it 0 for {DEFAULT_PAGE_SIZE}",
            reason="PAGE_SIZE_INVALID",
            page_size=page_size,
        )
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(key: list[str | int], arguments: tuple[str | None, ...]) -> str:
    """The token for the page after the entity with `key`."""
    payload = json.dumps([_hash(arguments), key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(payload).decode().rstrip("=")


def decode_token(
    token: str, arguments: tuple[str | None, ...], *, types: tuple[type, ...]
) -> list[str | int] | None:
    """The key in `token`, whose parts must have `types`; None for an empty token.

    Raises InvalidArgument `PAGE_TOKEN_INVALID` for a token that is not ours or belongs to other arguments.
    """
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        question, key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if [type(part) for part in key] != list(types):
            raise ValueError(key)
        if any("\0" in p if isinstance(p, str) else not 0 <= p < 1 << 31 for p in key):
            raise ValueError(key)  # what no key of ours is, and a database may choke on
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise InvalidArgument(
            "the page_token is not one that this registry gave: start again without it",
            reason="PAGE_TOKEN_INVALID",
        ) from None
    if question != _hash(arguments):
        raise InvalidArgument(
            "the page_token belongs to a request with other arguments: "
            "keep parent and filter as they were, or start again without it",
            reason="PAGE_TOKEN_INVALID",
        )
    return list(key)


def make_page(
    rows: list[T],
    page_size: int,
    key_of: Callable[[T], list[str | int]],
    arguments: tuple[str | None, ...],
) -> Page[T]:
    """The page of `rows`, of which one more than `page_size` was asked for to know whether there are others."""
    items = tuple(rows[:page_size])
    more = len(rows) > page_size
    return Page(items, encode_token(key_of(items[-1]), arguments) if more else "")


def _hash(arguments: tuple[str | None, ...]) -> str:
    return hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:16]
