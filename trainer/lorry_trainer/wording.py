"""A number with its noun, for messages."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """`1 row`, `2,000 rows`; `many` where an s is not enough: `1 row asks`, `2 rows ask`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
