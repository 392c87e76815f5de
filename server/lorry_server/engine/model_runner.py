"""*Do*: one packed forward pass over the chunks of a plan, whatever their adapters, and a choice of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items

import torch
from transformers import PreTrainedModel

from lorry_server.engine import attention, effect, selfcheck, sparse
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.attention import KVCache, KVShape
from lorry_server.engine.batch import PackedStep, pack
from lorry_server.engine.block_manager import BlockManager
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.effect import EffectMeter
from lorry_server.engine.final_states import FinalStates
from lorry_server.engine.lora.axes import TokenAxes
from lorry_server.engine.lora.layer import wrap_linears
from lorry_server.engine.lora.merged import Merged, MergedStep, divide
from lorry_server.engine.lora.modules import ModuleSlots
from lorry_server.engine.lora.rows import LONG_RUN, Run, StepRows
from lorry_server.engine.lora.slots import LoraSlots
from lorry_server.engine.lora.step import LoraStep
from lorry_server.engine.plan import Chunk, Sampled
from lorry_server.engine.sampling.results import results
from lorry_server.engine.slots import AdapterSlots
from lorry_server.engine.virtual import VirtualSlots


class ModelRunner:
    """Owns the model and every tensor beside it: the KV cache and the slots' factors."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        linear_shapes: Mapping[str, tuple[int, int]],
        context_length: int,
    ) -> None:
        self.model = model
        self.config = config
        self.device = model.device
        self.dtype = model.dtype
        axes = TokenAxes()
        with axes.watch(model):
            expected = selfcheck.expect(model)
        layers = selfcheck.served_layers(model)
        shapes = {index: layer.shape for index, layer in layers.items()}
        self.base = BaseView(model, linear_shapes, config.max_rank, shapes)
        self.num_blocks = num_kv_blocks(config, shapes, self.dtype, context_length)
        kept = -(-effect.PLACES // config.block_size)
        self.cache = KVCache(
            shapes, self.num_blocks + kept, config.block_size, self.dtype, self.device
        )
        self._sparse = sparse.serves(self.device)
        self._step = LoraStep()
        self.merged: Merged | None = None  # changed between two steps
        linears = LoraSlots(config.slots, config.max_rank, self.dtype, self.device)
        self.slots = AdapterSlots(
            linears,
            VirtualSlots(self.device),
            ModuleSlots(model, config.slots, self._step, axes),
            dense_memory_bytes=config.dense_memory_bytes,
        )
        self.slots.virtual.overlay(model.get_input_embeddings())
        wrap_linears(model, list(linear_shapes), linears, self._step)
        self._attention = attention.install(model)
        selfcheck.verify(expected, self.logits, BlockManager(self.num_blocks, config.block_size))
        self.effects = EffectMeter(
            self.logits,
            range(self.num_blocks, self.num_blocks + kept),
            model.get_input_embeddings().num_embeddings,
        )

    def switch(self, merged: Merged | None) -> None:
        """From the next step on this adapter is merged. The base's own weights have no part in it."""
        self.merged = merged

    @torch.inference_mode()
    def run(self, chunks: Items[Chunk]) -> list[Sampled | None]:
        """Runs a step; returns what it brought for each chunk that yields something, in the order of the chunks."""
        logits, states = self._forward(chunks)
        return results(chunks, logits, states, self.slots.heads)

    @torch.inference_mode()
    def logits(self, chunks: Items[Chunk]) -> torch.Tensor:
        """[num_logits, vocab_size]: after the tokens at each chunk's `logits_at`, in the order of the chunks."""
        return self._forward(chunks)[0]

    def _forward(self, chunks: Items[Chunk]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """The logits, and by index of a chunk that pools its final hidden states [tokens, hidden] at `pooled_at`."""
        packed = pack(
            chunks, self.cache, self.config.block_size, self.device, decode_together=self._sparse
        )
        self.slots.virtual.inject(self.cache, packed.injections)
        self.slots.virtual.step = packed.virtual_runs
        self._step.tokens = self._rows(packed.token_runs)
        self._step.logits = self._rows(packed.logit_runs)
        self._step.merged = self._merged_step(packed)
        self._attention.batch = packed.paged
        try:
            with FinalStates(self.model, wanted=bool(packed.pooled_rows)) as states:
                output = self.model(
                    input_ids=packed.input_ids,
                    position_ids=packed.position_ids,
                    use_cache=False,
                    logits_to_keep=packed.logits_index,
                )
        finally:
            self._step.tokens = self._step.logits = self._step.merged = None
            self.slots.virtual.step = ()
            self._attention.batch = None
        pooled = {index: states.at(rows) for index, rows in packed.pooled_rows.items()}
        return output.logits[0], pooled

    def _merged_step(self, packed: PackedStep) -> MergedStep | None:
        """None where no token is of the merged adapter: the step runs as if there were none."""
        merged = self.merged
        if merged is None:
            return None
        num_tokens = packed.input_ids.shape[1]
        tokens = divide(packed.token_runs, merged.slot, num_tokens, self.device, self._rows)
        if tokens is None:
            return None
        num_logits = len(packed.logits_index)
        logits = divide(packed.logit_runs, merged.slot, num_logits, self.device, self._rows)
        return MergedStep(merged.shadows, tokens, logits)

    def _rows(self, runs: list[Run]) -> StepRows | None:
        if not runs:
            return None
        return StepRows(
            runs,
            self.config.max_rank,
            self.config.slots,
            long_run=LONG_RUN if self._sparse else 1,
            device=self.device,
        )


def num_kv_blocks(
    config: EngineConfig, shapes: dict[int, KVShape], dtype: torch.dtype, context_length: int
) -> int:
    """How many blocks the memory holds, but no more than the sequences of a step can fill."""
    if config.kv_blocks is not None:
        return config.kv_blocks
    block_bytes = config.block_size * dtype.itemsize * sum(shape.size for shape in shapes.values())
    useful = config.max_sequences * -(-context_length // config.block_size)
    return max(1, min(config.kv_memory_bytes // block_bytes, useful))
