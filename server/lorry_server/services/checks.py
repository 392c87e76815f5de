"""How a value of a request is refused: by name, with the rule that it breaks.

Comparisons are written so that NaN fails them.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorry_registry.errors import InvalidArgument
from lorry_server.base import ServedBase


def invalid(field: str, value: object, rule: str) -> InvalidArgument:
    """The reason names the field: TEMPERATURE_INVALID."""
    reason = f"{field.partition('[')[0].upper()}_INVALID"
    return InvalidArgument(
        f"{field} is {value}; it must be {rule}.", reason=reason, field=field, value=value
    )


def check_between(field: str, value: float, least: float, most: float) -> None:
    """Raises InvalidArgument unless `least <= value <= most`."""
    if not least <= value <= most:
        raise invalid(field, value, f"between {least:g} and {most:g}")


def check_count(field: str, count: int, most: int, what: str) -> None:
    """Raises InvalidArgument where there are more than `most`."""
    if count > most:
        raise invalid(field, f"{count} {what}", f"at most {most}")


def check_ids(token_ids: Sequence[int], base: ServedBase, place: str) -> None:
    """Raises InvalidArgument where an id is not one of the base's; `place` names it, with `{index}`."""
    for index, value in enumerate(token_ids):
        if not 0 <= value < base.vocab_size:
            raise InvalidArgument(
                f"{place.format(index=index)} is {value}; ids go from 0 to {base.vocab_size - 1}.",
                reason="TOKEN_ID_OUT_OF_RANGE",
                index=index,
                value=value,
                vocab_size=base.vocab_size,
            )
