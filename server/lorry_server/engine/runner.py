"""*Do*: what runners of any base share: adapters in slots beside its layers, and a step in which they act."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from lorry_registry.errors import FailedPrecondition
from lorry_server.engine import sparse
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.weights import Head
from lorry_server.engine.block_manager import Memory
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.effect import EffectMeter, Probe
from lorry_server.engine.lora.axes import TokenAxes
from lorry_server.engine.lora.layer import wrap_linears
from lorry_server.engine.lora.merged import Merged, MergedStep, divide
from lorry_server.engine.lora.modules import ModuleSlots
from lorry_server.engine.lora.rows import LONG_RUN, Run, StepRows
from lorry_server.engine.lora.slots import LoraSlots
from lorry_server.engine.lora.step import LoraStep
from lorry_server.engine.plan import Chunk, Sampled
from lorry_server.engine.slots import AdapterSlots
from lorry_server.engine.virtual import VirtualSlots


class Runner(ABC):
    """Owns the model and every tensor beside it."""

    memory: Memory  # what the scheduler gives to sequences
    effects: EffectMeter

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        base: BaseView,
        axes: TokenAxes,
        late: Collection[str] = (),
    ) -> None:
        """`late` are linear layers behind the model's last states, other than the output head."""
        self.model = model
        self.config = config
        self.device = model.device
        self.base = base
        self.merged: Merged | None = None  # changed between two steps
        self._sparse = sparse.serves(self.device)
        self._step = LoraStep()
        linears = LoraSlots(config.slots, config.max_rank, model.dtype, self.device)
        self.slots = AdapterSlots(
            linears,
            VirtualSlots(self.device),
            ModuleSlots(model, config.slots, self._step, axes),
            dense_memory_bytes=config.dense_memory_bytes,
        )
        paths = [layer.path for layer in base.entity.modules]
        wrap_linears(model, paths, linears, self._step, late)

    def switch(self, merged: Merged | None) -> None:
        """From the next step on this adapter is merged. The base's own weights have no part in it."""
        self.merged = merged

    @abstractmethod
    def run(self, chunks: Items[Chunk]) -> list[Sampled | None]:
        """Runs a step; returns what it brought for each chunk that yields something, in the order of the chunks."""

    def measure(self, slot: int, probe: Probe) -> float:
        """What the adapter that was put into a slot changes.

        Raises FailedPrecondition where it cannot be used. Its head is tried too: parts that do not fit together would
        end the step that first uses them.
        """
        head = self.slots.heads.get(slot)
        if head is not None:
            hidden = self.model.config.get_text_config().hidden_size
            states = torch.zeros(2, hidden, dtype=self.model.dtype, device=self.device)
            try:
                self._try_head(slot, head, states)
            except Exception as error:  # a family's own code, or a product of what does not fit
                raise FailedPrecondition(
                    f"The adapter's head has parts that do not fit together ({str(error)[:200]}): save it again.",
                    reason="HEAD_UNUSABLE",
                ) from error
        return self.effects.measure(slot, probe)

    @abstractmethod
    def _try_head(self, slot: int, head: Head, states: torch.Tensor) -> None:
        """Lets a head say something of states [2, hidden], in each way that a request may ask it."""

    @contextmanager
    def _acting(
        self,
        token_runs: list[Run],
        num_tokens: int,
        logit_runs: Items[Run] = (),
        num_logits: int = 0,
    ) -> Iterator[None]:
        """Lets adapters act in a forward pass over so many tokens, of which so many go on to the output head."""
        step = self._step
        step.tokens, step.logits = self._rows(token_runs), self._rows(logit_runs)
        step.merged = self._merged_step(token_runs, num_tokens, logit_runs, num_logits)
        try:
            yield
        finally:
            step.tokens = step.logits = step.merged = None

    def _merged_step(
        self, token_runs: list[Run], num_tokens: int, logit_runs: Items[Run], num_logits: int
    ) -> MergedStep | None:
        """None where nothing is of the merged adapter: the step runs as if there were none."""
        merged = self.merged
        if merged is None:
            return None
        tokens = divide(token_runs, merged.slot, num_tokens, self.device, self._rows)
        if tokens is None:
            return None
        logits = divide(list(logit_runs), merged.slot, num_logits, self.device, self._rows)
        return MergedStep(merged.shadows, tokens, logits)

    def _rows(self, runs: Items[Run]) -> StepRows | None:
        if not runs:
            return None
        return StepRows(
            runs,
            self.config.max_rank,
            self.config.slots,
            long_run=LONG_RUN if self._sparse else 1,
            device=self.device,
        )
