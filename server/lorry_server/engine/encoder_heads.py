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
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lorry_server.engine.adapters.weights import Head

# PEFT keeps token types from what a model under such an adapter reads (`PeftModelForQuestionAnswering.forward`), so
# they learn without them.
UNTYPED_TASKS = ("QUESTION_ANS",)
TEXT_TASK = "SEQ_CLS"  # as PEFT calls it: what the served model's own class is for
_TOKEN_CLASSES = {
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
}


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


class _Judge:
    """A family's model for one task, over what was said instead of a trunk."""

    def __init__(self, model: PreTrainedModel, pooler: nn.Module | None, brought: Set[str]) -> None:
        self._trunk = _SaidTrunk(pooler)
        self._model = copy.copy(model)
        self._model._modules = {**model._modules, model.base_model_prefix: self._trunk}
        self.brought = brought & {path for path, _ in self._model.named_parameters()}

    def says(self, states: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[labels] of a text's states [num_tokens, hidden], or [num_tokens, labels], with an adapter's parameters."""
        self._trunk.states = states[None]
        said = functional_call(self._model, dict(parameters), ())
        if "logits" in said:
            labels: torch.Tensor = said.logits[0]
        else:
            labels = torch.stack([said.start_logits[0], said.end_logits[0]], dim=-1)
        return labels.float()


class EncoderHeads:
    """The parts of a family's models behind the trunk. Takes the trunk's pooler out of it: here it is per text."""

    def __init__(self, model: PreTrainedModel, brought: Set[str]) -> None:
        """`brought` are the parameters of heads that adapters bring: the base has none of its own."""
        trunk = model.base_model
        pooler = getattr(trunk, "pooler", None)
        if pooler is not None:
            trunk.pooler = None
        self._judges = {TEXT_TASK: _Judge(model, pooler, brought)}
        for task, auto_class in _TOKEN_CLASSES.items():
            if type(model.config) in auto_class._model_mapping:
                other = _beside(model, auto_class, brought)
                self._judges[task] = _Judge(other, None, brought)

    def tells(self, head: Head, *, of_each: bool) -> bool:
        """Whether a head is for texts, or for each token, and everything of it is there."""
        judge = self._judges.get(head.task)
        fits = judge is not None and judge.brought <= head.parameters.keys()
        return fits and of_each == (head.task != TEXT_TASK)

    def says(self, states: torch.Tensor, head: Head) -> torch.Tensor:
        """[labels] of a text's states [num_tokens, hidden]; or [num_tokens, labels], where the head is for tokens."""
        return self._judges[head.task].says(states, head.parameters)


def _beside(model: PreTrainedModel, auto_class: Any, brought: Set[str]) -> PreTrainedModel:
    """A family's model for another task, without weights but for those that the base has for it."""
    with torch.device("meta"):
        other: PreTrainedModel = auto_class.from_config(copy.deepcopy(model.config)).eval()
    for name, module in other.named_children():
        paths = {f"{name}.{path}" for path, _ in module.named_parameters()}
        if name != model.base_model_prefix and paths and paths.isdisjoint(brought):
            setattr(other, name, model._modules[name])
    return other
