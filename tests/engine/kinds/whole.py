"""Whole modules and single tokens, trained beside LoRA."""

from __future__ import annotations

from typing import Any

from peft import LNTuningConfig, LoraConfig, TrainableTokensConfig

from tests.engine.kinds.names import Names


def _lora(names: Names, **options: Any) -> LoraConfig:
    return LoraConfig(
        init_lora_weights=False, r=4, lora_alpha=8, target_modules=names.attention, **options
    )


def recipes(names: Names) -> dict[str, Any]:
    made = {
        "norms": _lora(names, modules_to_save=[names.norm]),
        "every-norm": _lora(names, modules_to_save=["norm"]),
        "whole-head": _lora(names, modules_to_save=["lm_head"]),
        "whole-embedding": _lora(names, modules_to_save=[names.embedding]),
        "tokens": _lora(names, trainable_token_indices=[2, 5, 7, 100]),
        "tokens-of-both": _lora(
            names, trainable_token_indices={names.embedding: [9, 3], "lm_head": [4, 8, 1]}
        ),
    }
    made["ln-tuning"] = LNTuningConfig(target_modules=[names.norm])
    made["tokens-alone"] = TrainableTokensConfig(token_indices=[2, 5, 7, 100])
    if names.tied:
        made["whole-tied"] = _lora(
            names, modules_to_save=[names.embedding], ensure_weight_tying=True
        )
    return made
