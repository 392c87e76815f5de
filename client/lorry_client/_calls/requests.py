"""Builds messages out of what callers pass, and says what is wrong where protobuf cannot hold it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lorry_client.errors import InvalidArgument

M = TypeVar("M")

# Deadlines in seconds by kind of call, where the caller gives none.
LOOKUP_SECONDS = 30.0
GENERATION_SECONDS = 600.0
LOAD_SECONDS = 300.0
PUBLISH_SECONDS = 300.0


def build(message: Callable[..., M], **fields: Any) -> M:
    """Makes a message, leaving out fields that are None; a value that does not fit its field is InvalidArgument."""
    try:
        return message(**{name: value for name, value in fields.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"The request cannot be written down: {error}.", reason="INVALID_FIELD"
        ) from error
