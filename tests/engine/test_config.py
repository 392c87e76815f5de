"""An engine's settings: what makes no sense is refused where it is written down."""

from __future__ import annotations

from dataclasses import fields

import pytest

from lorry_registry.errors import InvalidArgument
from lorry_server.engine.config import EngineConfig


@pytest.mark.parametrize("name", [field.name for field in fields(EngineConfig)])
@pytest.mark.parametrize("value", [0, -1])
def test_every_size_is_at_least_one(name: str, value: int) -> None:
    if name == "merge_memory_bytes" and value == 0:
        assert EngineConfig(merge_memory_bytes=0).merge_memory_bytes == 0, "no merging"
        return
    with pytest.raises(InvalidArgument, match=f"{name} is {value}") as refusal:
        EngineConfig(**{name: value})
    assert refusal.value.reason == "BAD_ENGINE_CONFIG"
    assert refusal.value.metadata == {"field": name, "value": str(value)}


def test_every_running_sequence_has_a_token_in_a_step() -> None:
    with pytest.raises(InvalidArgument, match="max_batched_tokens is 8"):
        EngineConfig(max_sequences=9, max_batched_tokens=8)
    EngineConfig(max_sequences=8, max_batched_tokens=8)
