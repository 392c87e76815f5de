"""LoRA in all its forms."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig

from tests.engine.kinds.names import Names


def _lora(**options: Any) -> LoraConfig:
    return LoraConfig(init_lora_weights=False, **{"r": 4, "lora_alpha": 8, **options})


def recipes(names: Names) -> dict[str, Any]:
    made = {
        "plain": _lora(target_modules="all-linear"),
        "rank-stabilised": _lora(r=8, use_rslora=True, target_modules=names.attention),
        "patterns": _lora(
            target_modules="all-linear",
            rank_pattern={names.down: 9, f".*.0.*.{names.attention[0]}": 3},
            alpha_pattern={names.attention[0]: 10},
        ),
        "regex": _lora(target_modules=rf".*\.1\..*({'|'.join(names.attention)})"),
        "one-layer": _lora(target_modules=names.mlp, layers_to_transform=[0]),
        "excluded": _lora(target_modules="all-linear", exclude_modules=[names.down]),
        "dora": _lora(target_modules="all-linear", use_dora=True),
        "dora-patterns": _lora(
            target_modules=names.mlp, use_dora=True, use_rslora=True, rank_pattern={names.down: 7}
        ),
        "lora-bias": _lora(target_modules="all-linear", lora_bias=True),
        "embedding": _lora(target_modules=[names.embedding, names.attention[0]]),
        "embedding-dora": _lora(target_modules=[names.embedding], use_dora=True),
        "head": _lora(target_modules=["lm_head"]),
        "head-dora": _lora(target_modules=["lm_head", names.down], use_dora=True),
    }
    if names.biased:
        made["bias-lora-only"] = _lora(target_modules=names.biased, bias="lora_only")
        made["bias-all"] = _lora(target_modules=names.attention, bias="all", use_dora=True)
    if names.tied:
        made["embedding-tied"] = _lora(target_modules=[names.embedding], ensure_weight_tying=True)
    return made
