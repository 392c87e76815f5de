"""The engine's settings. The command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lorry_registry.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes and limits, fixed for the life of an engine.

    Raises InvalidArgument where a value breaks its rule.
    """

    slots: int = 32  # adapters in device memory at once
    max_rank: int = 64  # the largest rank that a slot takes
    max_sequences: int = 64  # sequences in one step
    max_batched_tokens: int = 512  # tokens in one step; longer prompts are prefilled in chunks
    max_waiting: int = 256  # requests in the queue; more are refused
    block_size: int = 16  # tokens in a KV block
    kv_blocks: int | None = None  # None: what `kv_memory_bytes` holds
    kv_memory_bytes: int = 1 << 30  # for keys and values of all layers
    dense_memory_bytes: int = (
        4 << 30  # for whole matrices (modules_to_save, embeddings) of the adapters in all slots
    )
    host_memory_bytes: int = 2 << 30  # for adapters outside the slots; on a CPU none are kept there
    merge_memory_bytes: int = 2 << 30  # for the weights with an adapter in them; 0: none is merged
    auto_merge: bool = False  # merge by itself the adapter that most requests are for
    max_overtakes: int = (
        64  # admissions past a request that waits for a slot, before one is drained for it
    )

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool):
                continue
            least = 0 if field.name == "merge_memory_bytes" else 1
            if value is not None and value < least:
                raise InvalidArgument(
                    f"{field.name} is {value}; it must be at least {least}.",
                    reason="BAD_ENGINE_CONFIG",
                    field=field.name,
                    value=value,
                )
        if self.max_batched_tokens < self.max_sequences:
            raise InvalidArgument(
                f"max_batched_tokens is {self.max_batched_tokens}, less than max_sequences "
                f"({self.max_sequences}); every running sequence needs a token in a step.",
                reason="BAD_ENGINE_CONFIG",
                field="max_batched_tokens",
                value=self.max_batched_tokens,
            )
