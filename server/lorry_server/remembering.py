"""The latest of many, and no more of them than a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


def remember(entries: OrderedDict[_K, _T], key: _K, value: _T, most: int) -> None:
    """Puts an entry last, and forgets the first where there are more than `most`."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > most:
        entries.popitem(last=False)
