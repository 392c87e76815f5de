"""A decoder's runner: one packed forward pass over a plan's chunks, whatever their adapters, and a choice of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items

import torch
from transformers import PreTrainedModel

from lorry_server.engine import attention, effect, selfcheck
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.weights import Head
from lorry_server.engine.attention import KVCache, KVShape, PagedAttention
from lorry_server.engine.batch import pack
from lorry_server.engine.block_manager import BlockManager
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.effect import EffectMeter
from lorry_server.engine.final_states import FinalStates
from lorry_server.engine.heads import linear_labels, linear_labels_of_each
from lorry_server.engine.lora.axes import TokenAxes
from lorry_server.engine.plan import Chunk, Sampled
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.engine.runner import Runner
from lorry_server.engine.sampling.results import results


class ModelRunner(Runner):
    """Owns the model and every tensor beside it: the KV cache and the slots' factors."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        linear_shapes: Mapping[str, tuple[int, int]],
        context_length: int,
    ) -> None:
        axes = TokenAxes()
        with axes.watch(model):
            expected = selfcheck.expect(model, lambda ids: last_logits(model, ids))
        layers = selfcheck.served_layers(model)
        shapes = {index: layer.shape for index, layer in layers.items()}
        self.num_blocks = num_kv_blocks(config, shapes, model.dtype, context_length)
        kept = -(-effect.PLACES // config.block_size)
        super().__init__(
            model, config, BaseView(model, linear_shapes, config.max_rank, shapes), axes
        )
        self.cache = KVCache(
            shapes, self.num_blocks + kept, config.block_size, model.dtype, self.device
        )
        self.slots.virtual.overlay(model.get_input_embeddings())
        self._attention = PagedAttention()
        attention.install(model, self._attention)
        tried = BlockManager(self.num_blocks, config.block_size)
        selfcheck.verify(expected, next_token, self.logits, tried, selfcheck.CHUNKED)
        self.memory = BlockManager(self.num_blocks, config.block_size)
        self.effects = EffectMeter(
            next_token,
            self.logits,
            model.get_input_embeddings().num_embeddings,
            range(self.num_blocks, self.num_blocks + kept),
        )

    @torch.inference_mode()
    def run(self, chunks: Items[Chunk]) -> list[Sampled | None]:
        logits, states = self._forward(chunks)
        return results(chunks, logits, states, self._labels)

    @torch.inference_mode()
    def logits(self, chunks: Items[Chunk]) -> torch.Tensor:
        """[num_logits, vocab_size]: after the tokens at each chunk's `logits_at`, in the order of the chunks."""
        return self._forward(chunks)[0]

    def _forward(self, chunks: Items[Chunk]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """The logits, and by index of a chunk that pools its final hidden states [tokens, hidden] at `pooled_at`."""
        packed = pack(
            chunks, self.cache, self.config.block_size, self.device, decode_together=self._sparse
        )
        num_tokens, num_logits = packed.input_ids.shape[1], len(packed.logits_index)
        self.slots.virtual.inject(self.cache, packed.injections)
        self.slots.virtual.step = packed.virtual_runs
        self._attention.batch = packed.paged
        try:
            with (
                self._acting(packed.token_runs, num_tokens, packed.logit_runs, num_logits),
                FinalStates(self.model, wanted=bool(packed.pooled_rows)) as states,
            ):
                output = self.model(
                    input_ids=packed.input_ids,
                    position_ids=packed.position_ids,
                    use_cache=False,
                    logits_to_keep=packed.logits_index,
                )
        finally:
            self.slots.virtual.step = ()
            self._attention.batch = None
        pooled = {index: states.at(rows) for index, rows in packed.pooled_rows.items()}
        return output.logits[0], pooled

    def _try_head(self, slot: int, head: Head, states: torch.Tensor) -> None:
        linear_labels(head, states[:1])
        linear_labels_of_each(head, states)

    def _labels(self, chunk: Chunk, states: torch.Tensor) -> torch.Tensor | None:
        head = None if chunk.slot is None else self.slots.heads.get(chunk.slot)
        says = linear_labels_of_each if chunk.sequence.request.of_each else linear_labels
        return says(head, states)


def last_logits(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """[vocab_size]: what a decoder itself says after `input_ids` [1, num_tokens]."""
    logits: torch.Tensor = model(input_ids, use_cache=False).logits[0, -1]
    return logits


def next_token(request_id: str, token_ids: tuple[int, ...]) -> GenerationRequest:
    """Asks for the logits after these."""
    return GenerationRequest(request_id, token_ids, SamplingParams(max_tokens=1))


def num_kv_blocks(
    config: EngineConfig, shapes: dict[int, KVShape], dtype: torch.dtype, context_length: int
) -> int:
    """How many blocks the memory holds, but no more than the sequences of a step can fill."""
    if config.kv_blocks is not None:
        return config.kv_blocks
    block_bytes = config.block_size * dtype.itemsize * sum(shape.size for shape in shapes.values())
    useful = config.max_sequences * -(-context_length // config.block_size)
    return max(1, min(config.kv_memory_bytes // block_bytes, useful))
