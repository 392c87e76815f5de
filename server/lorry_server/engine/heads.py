"""What an adapter's head says on a decoder: one linear layer over a token's final hidden state."""

from __future__ import annotations

import torch

from lorry_server.engine.adapters.weights import Head

TOKEN_TASKS = ("TOKEN_CLS", "QUESTION_ANS")  # as PEFT calls them: something is said of each token
_NAMES = ("score", "classifier")  # as transformers' decoders call theirs


def linear_labels(head: Head | None, states: torch.Tensor) -> torch.Tensor | None:
    """[labels], of states [1, hidden]; None where there is no such head."""
    found = _found(head)
    if found is None:
        return None
    weight, bias = found
    labels = weight @ states.float().sum(0)
    return labels if bias is None else labels + bias


def linear_labels_of_each(head: Head | None, states: torch.Tensor) -> torch.Tensor | None:
    """[tokens, labels], of states [tokens, hidden]; None where there is no head that was trained for tokens."""
    found = _found(head) if head is not None and head.task in TOKEN_TASKS else None
    if found is None:
        return None
    weight, bias = found
    labels = states.float() @ weight.t()
    return labels if bias is None else labels + bias


def _found(head: Head | None) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight [labels, hidden] and bias [labels], in float32."""
    parameters = {} if head is None else head.parameters
    name = next((name for name in _NAMES if f"{name}.weight" in parameters), None)
    if name is None:
        return None
    bias = parameters.get(f"{name}.bias")
    return parameters[f"{name}.weight"].float(), None if bias is None else bias.float()
