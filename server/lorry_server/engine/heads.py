"""What an adapter's head says on a decoder: one linear layer over the last token's final hidden state."""

from __future__ import annotations

import torch

from lorry_server.engine.adapters.weights import Head

_NAMES = ("score", "classifier")  # as transformers' decoders call theirs


def linear_labels(head: Head | None, states: torch.Tensor) -> torch.Tensor | None:
    """[labels], of states [1, hidden]; None where there is no such head."""
    parameters = {} if head is None else head.parameters
    name = next((name for name in _NAMES if f"{name}.weight" in parameters), None)
    if name is None:
        return None
    labels = parameters[f"{name}.weight"].float() @ states.float().sum(0)
    bias = parameters.get(f"{name}.bias")
    return labels if bias is None else labels + bias.float()
