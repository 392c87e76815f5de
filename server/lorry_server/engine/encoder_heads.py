"""What adapters' heads say on an encoder: the family's own way from final states to labels, with the adapter's weights.

A family has a pooler there, or a dense layer, or none; some of it may be the base's own, with adapters beside it. So
its own code runs, over what its trunk has said: the trunk itself is replaced by one that only tells that.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lorry_server.engine.adapters.weights import Head

SEQUENCE_LABELS = "SEQ_CLS"  # PEFT's name for what the served model's own class is for


class _SaidTrunk(nn.Module):
    """Stands where a trunk stood, and tells what that said."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.states = torch.empty(0)  # [1, num_tokens, hidden]

    def forward(self, *_args: Any, **_kwargs: Any) -> BaseModelOutputWithPooling:
        pooled = None if self.pooler is None else self.pooler(self.states)
        return BaseModelOutputWithPooling(
            last_hidden_state=cast(Any, self.states), pooler_output=pooled
        )


class EncoderHeads:
    """The part of a model that classifies behind its trunk. Takes the trunk's pooler out of it: here it is per text."""

    def __init__(self, model: PreTrainedModel, brought: Set[str]) -> None:
        """`brought` are the parameters of heads that adapters bring: the base has none of its own."""
        trunk = model.base_model
        self._trunk = _SaidTrunk(getattr(trunk, "pooler", None))
        self._judge = copy.copy(model)
        self._judge._modules = {**model._modules, model.base_model_prefix: self._trunk}
        if self._trunk.pooler is not None:
            trunk.pooler = None
        self._brought = brought & {path for path, _ in self._judge.named_parameters()}

    def is_whole(self, head: Head) -> bool:
        """Whether a head is for this task, and everything of it is there."""
        return head.task == SEQUENCE_LABELS and self._brought <= head.parameters.keys()

    def labels(self, states: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[labels], of a text's states [num_tokens, hidden], with these parameters of an adapter's."""
        self._trunk.states = states[None]
        logits: torch.Tensor = functional_call(self._judge, dict(parameters), ()).logits
        return logits[0].float()
