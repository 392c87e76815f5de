"""Writes what an adapter adds as a LoRA folder, as PEFT saves it: a composition that becomes a version of its own."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorry_registry.errors import FailedPrecondition
from lorry_server.engine.adapters.weights import AdapterWeights, LinearUpdate

_PREFIX = "base_model.model."


def write_lora(weights: AdapterWeights, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`; scales are 1, for they are in the factors.

    Raises FailedPrecondition where there is more than LoRA on linear layers, its biases included.
    """
    for path in (*weights.embeddings, *weights.parameters):
        raise _no_lora(path)
    biased = any(update.bias is not None for update in weights.linears.values())
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    for path, update in weights.linears.items():
        a, b = _factors(path, update)
        name = f"{_PREFIX}{path}"
        tensors[f"{name}.lora_A.weight"] = a.float().contiguous()
        tensors[f"{name}.lora_B.weight"] = b.float().t().contiguous()
        if biased:
            bias = torch.zeros(b.shape[1]) if update.bias is None else update.bias.float()
            tensors[f"{name}.lora_B.bias"] = bias
        ranks[path] = len(a)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(_config(ranks, biased), indent=2)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _factors(path: str, update: LinearUpdate) -> tuple[torch.Tensor, torch.Tensor]:
    more = (update.in_delta, update.out_delta, update.weight, update.rows)
    if update.a is None or update.b is None or any(part is not None for part in more):
        raise _no_lora(path)
    return update.a, update.b


def _config(ranks: dict[str, int], biased: bool) -> dict[str, object]:
    largest = max(ranks.values())
    others = {path: rank for path, rank in ranks.items() if rank != largest}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "bias": "none",
        "lora_bias": biased,
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _no_lora(path: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"The composition does more than LoRA in {path}, and no published kind says that; ask for it per request, or "
        "compose adapters that are LoRA.",
        reason="COMPOSITION_NOT_LORA",
        module=path,
    )
