"""What a model knows of its tokens before its output head: seen as it leaves the backbone, in steps that want it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel


class FinalStates:
    """`with FinalStates(model, wanted=…) as states:` around a forward pass; `states.at(rows)` after it."""

    def __init__(self, model: PreTrainedModel, *, wanted: bool) -> None:
        self._backbone = model.base_model
        self._wanted = wanted
        self._states = torch.empty(0, 0)  # [num_tokens, hidden]
        self._hook: RemovableHandle | None = None

    def __enter__(self) -> FinalStates:
        if self._wanted:
            self._hook = self._backbone.register_forward_hook(self._keep)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._hook is not None:
            self._hook.remove()

    def at(self, rows: range) -> torch.Tensor:
        """[len(rows), hidden]: those of consecutive tokens of the step."""
        return self._states[rows.start : rows.stop]

    def _keep(self, _module: Any, _args: Any, output: Any) -> None:
        self._states = output.last_hidden_state[0]
