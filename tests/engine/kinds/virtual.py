"""Virtual tokens: embeddings, and keys and values."""

from __future__ import annotations

from typing import Any

from peft import (
    CartridgeConfig,
    CPTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)

from tests.engine.kinds.names import Names


def recipes(names: Names) -> dict[str, Any]:
    task = "CAUSAL_LM"
    return {
        "prompt-tuning": PromptTuningConfig(task_type=task, num_virtual_tokens=5),
        "p-tuning": PromptEncoderConfig(
            task_type=task, num_virtual_tokens=9, encoder_hidden_size=32
        ),
        "cpt": CPTConfig(
            task_type=task,
            num_virtual_tokens=4,
            cpt_token_ids=[3, 4, 5, 6],
            cpt_mask=[1, 1, 1, 1],
            cpt_tokens_type_mask=[1, 2, 3, 4],
        ),
        "prefix-tuning": PrefixTuningConfig(task_type=task, num_virtual_tokens=14),
        "prefix-projection": PrefixTuningConfig(
            task_type=task, num_virtual_tokens=6, prefix_projection=True, encoder_hidden_size=32
        ),
        "cartridge": CartridgeConfig(task_type=task, num_virtual_tokens=20, num_frozen_tokens=2),
    }
