"""An encoder's runner: one packed forward pass over whole texts, whatever their adapters, and what their heads say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from lorry_bases.shapes import ParameterShape
from lorry_server.engine import attention, selfcheck
from lorry_server.engine.adapters.base import BaseView
from lorry_server.engine.adapters.weights import Head
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.effect import EffectMeter
from lorry_server.engine.encoder_heads import TEXT_TASK, UNTYPED_TASKS, EncoderHeads
from lorry_server.engine.final_states import FinalStates
from lorry_server.engine.lora.axes import TokenAxes
from lorry_server.engine.lora.rows import Run
from lorry_server.engine.plan import Chunk, Sampled
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.engine.runner import Runner
from lorry_server.engine.sampling.results import results
from lorry_server.engine.whole_attention import WholeAttention
from lorry_server.engine.whole_batch import Embedded, pack_texts
from lorry_server.engine.whole_texts import WholeTexts

_NO_HEAD = Head(TEXT_TASK, {})  # what stands there by chance: the same for the model and for this


class EncoderRunner(Runner):
    """Owns the model, under the head that labels a text, and the slots' factors. Its own head is of no consequence."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        linear_shapes: Mapping[str, tuple[int, int]],
        parameters: Iterable[ParameterShape],
        context_length: int,
    ) -> None:
        """`parameters` are those that adapters may change, and those that they bring."""
        axes = TokenAxes()
        with axes.watch(model):
            expected = selfcheck.expect(model, lambda ids: _own_words(model, ids))
        selfcheck.served_layers(model)
        base = BaseView(model, linear_shapes, config.max_rank, {}, parameters)
        trunk = model.base_model_prefix
        early = [path for path in linear_shapes if path.startswith(f"{trunk}.")]
        pooler = [path for path in early if path.startswith(f"{trunk}.pooler.")]
        late = {*linear_shapes} - {*early} | {*pooler}
        super().__init__(model, config, base, axes, late)
        self._embedded = Embedded.of(model.base_model)
        brought = {each.path for each in base.entity.parameters if each.is_heads}
        self._heads = EncoderHeads(model, brought)
        self._attention = WholeAttention()
        attention.install(model, self._attention)
        self.memory = WholeTexts(context_length, config.max_batched_tokens)
        selfcheck.verify(expected, whole_text, self.words, self.memory, selfcheck.WHOLE)
        self.effects = EffectMeter(
            whole_text, self.words, model.get_input_embeddings().num_embeddings
        )

    @torch.inference_mode()
    def run(self, chunks: Items[Chunk]) -> list[Sampled | None]:
        states = self._states(chunks)
        wanted = {
            index: text[chunk.pooled_at.start : chunk.pooled_at.stop]
            for index, (chunk, text) in enumerate(zip(chunks, states, strict=True))
            if chunk.pooled_at
        }
        return results(chunks, states[0].new_empty(0, 0), wanted, self._labels)

    @torch.inference_mode()
    def _try_head(self, slot: int, head: Head, states: torch.Tensor) -> None:
        if any(self._heads.tells(head, of_each=each) for each in (True, False)):
            self._judged(slot, states, head)

    @torch.inference_mode()
    def words(self, chunks: Items[Chunk]) -> list[torch.Tensor]:
        """What the base says of each text, as a vector: all its states, and its own head's labels."""
        return [
            torch.cat([states.flatten(), self._judged(chunk.slot, states, _NO_HEAD)])
            for chunk, states in zip(chunks, self._states(chunks), strict=True)
        ]

    def _states(self, chunks: Items[Chunk]) -> list[torch.Tensor]:
        """Of each text [num_tokens, hidden], final."""
        heads = self.slots.heads
        untyped = {slot for slot, head in heads.items() if head.task in UNTYPED_TASKS}
        step = pack_texts(chunks, self._embedded, self.device, untyped)
        self._attention.over(step.texts)
        with self._acting(step.runs, step.num_tokens):
            said = self.model.base_model(**step.inputs).last_hidden_state[0]
        return [said[text] for text in step.texts]

    def _labels(self, chunk: Chunk, states: torch.Tensor) -> torch.Tensor | None:
        head = None if chunk.slot is None else self.slots.heads.get(chunk.slot)
        if head is None or not self._heads.tells(head, of_each=chunk.sequence.request.of_each):
            return None
        return self._judged(chunk.slot, states, head)

    def _judged(self, slot: int | None, states: torch.Tensor, head: Head) -> torch.Tensor:
        """What a head says of one text. Whatever a layer behind the trunk sees then is of that, and of its adapter."""

        def acting(num_rows: int) -> AbstractContextManager[None]:
            return self._acting([] if slot is None else [Run(0, num_rows, slot)], num_rows)

        self._step.late = acting
        try:
            return self._heads.says(states, head)
        finally:
            self._step.late = None


def whole_text(request_id: str, token_ids: tuple[int, ...]) -> GenerationRequest:
    """Asks for the states of all of these."""
    return GenerationRequest(request_id, token_ids, SamplingParams(max_tokens=0), pool_from=0)


def _own_words(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """A vector: the final states of `input_ids` [1, num_tokens], and what the model's own head says."""
    with FinalStates(model, wanted=True) as states:
        labels = model(input_ids).logits[0]
    return torch.cat([states.at(range(input_ids.shape[1])).flatten(), labels])
