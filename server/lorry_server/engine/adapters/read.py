"""An adapter folder as what it does to the base, ready for a slot."""

from __future__ import annotations

from pathlib import Path

import torch

from lorry_registry.checks import AdapterFiles, read_adapter
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.builder import WeightsBuilder
from lorry_server.engine.adapters.kinds import READERS
from lorry_server.engine.adapters.saved import read_saved
from lorry_server.engine.adapters.tensors import open_tensors
from lorry_server.engine.adapters.weights import AdapterWeights


def read_weights(folder: Path, base: BaseView, dtype: torch.dtype) -> AdapterWeights:
    """Reads an adapter folder; every tensor in it acts, or is what the base has already.

    Raises FailedPrecondition where the adapter does not fit this base, InvalidArgument where the files are broken.
    """
    entity = base.entity
    files = read_adapter(folder, max_modules=len(entity.modules) + len(entity.parameters))
    if files.parts.virtual is not None and not base.caches:
        raise FailedPrecondition(
            "The adapter puts virtual tokens before every text, which is served on decoders alone: on an encoder train "
            "LoRA or (IA)³.",
            reason="VIRTUAL_TOKENS_ON_ENCODER",
        )
    _check_fit(files, base)
    task = str(files.config.raw.get("task_type") or "")
    into = WeightsBuilder(dtype, allow_no_effect=files.config.allow_no_effect, task=task)
    with open_tensors(folder) as tensors:
        READERS[files.config.peft_type](files, tensors, base, into)
        read_saved(files, tensors, base, into)
        if tensors.unread:
            raise InvalidArgument(
                f"The adapter's tensor {tensors.unread[0]!r} has no place in {entity.architecture}: it would have no "
                "effect. Save the adapter alone, with save_pretrained.",
                reason="TENSOR_UNKNOWN",
                tensor=tensors.unread[0][:200],
            )
    weights = into.build()
    _check_finite(weights)
    return weights


def _check_fit(files: AdapterFiles, base: BaseView) -> None:
    """What the registry asked when the version was published, asked of the base that is here."""
    try:
        files.check_fit(base.entity)
    except InvalidArgument as fault:
        raise FailedPrecondition(
            f"The adapter does not fit the base that is served here: {fault.message}.",
            reason=fault.reason if fault.reason == "RANK_ABOVE_CAP" else "ADAPTER_BASE_MISMATCH",
            **fault.metadata,
        ) from fault


def _check_finite(weights: AdapterWeights) -> None:
    """A finite file may still overflow on its way: a scaling, a magnitude over a norm of zero, a smaller type."""
    for where, tensor in weights.tensors():
        if not tensor.isfinite().all():
            raise FailedPrecondition(
                f"What the adapter adds to {where} is not finite in {tensor.dtype} on this base: it cannot act. "
                "Train it again with a lower learning rate, or save it in float32.",
                reason="ADAPTER_NOT_FINITE",
                module=where,
            )
