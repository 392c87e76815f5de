"""Virtual tokens stand before a sequence as if the model had been given them, cut anywhere, whoever is beside it."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import DynamicCache

from lorry_bases.shapes import linear_shapes
from lorry_server.engine.adapters.weights import AdapterWeights, VirtualTokens
from lorry_server.engine.block_manager import BlockManager
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.model_runner import ModelRunner
from lorry_server.engine.plan import Chunk
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.engine.sequence import Sequence, VirtualPlaces

from .bases import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, random_model

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

TOLERANCE = 1e-5  # relative, L2
BASES = ("llama", "gpt2", "gemma2", "gemma3", "granite")
COUNT = 11  # more than a block, and no whole number of them


class Stage:
    """A model with virtual tokens in two slots: embeddings in slot 0, keys and values in slot 1."""

    def __init__(self, name: str) -> None:
        self.model, served = random_model(CONFIGS[name]), random_model(CONFIGS[name])
        engine = EngineConfig(
            slots=2, max_rank=1, block_size=8, kv_blocks=64, max_batched_tokens=512
        )
        self.runner = ModelRunner(served, engine, linear_shapes(served), CONTEXT_LENGTH)
        self.blocks = BlockManager(self.runner.num_blocks, 8)
        cache = self.runner.cache
        torch.manual_seed(1)
        self.embeddings = torch.randn(COUNT, self.model.get_input_embeddings().embedding_dim)
        self.keys, self.values = (
            tuple(torch.randn(pages.shape[1], COUNT, pages.shape[3]) for pages in each.values())
            for each in (cache.keys, cache.values)
        )
        self.runner.slots.write(0, AdapterWeights(virtual=VirtualTokens(self.embeddings)))
        self.runner.slots.write(
            1, AdapterWeights(virtual=VirtualTokens(None, self.keys, self.values))
        )

    def sequence(self, ids: list[int], slot: int | None) -> Sequence:
        request = GenerationRequest("s", tuple(ids), SamplingParams(max_tokens=1), str(slot))
        each = Sequence(request, 0.0, list(ids))
        if slot is not None:
            each.virtual = VirtualPlaces(COUNT, injected=slot == 1)
        return each

    def step(self, *work: tuple[Sequence, int, int | None]) -> list[torch.Tensor]:
        """(sequence, tokens, slot): computes them; returns the logits of those that reached their end."""
        chunks = [
            Chunk(each, count, slot, num_injected=each.num_uninjected_tokens)
            for each, count, slot in work
        ]
        for chunk in chunks:
            self.blocks.allocate(chunk.sequence, chunk.num_injected + chunk.num_tokens)
        logits = list(self.runner.logits(chunks))
        for chunk in chunks:
            chunk.sequence.num_computed_tokens = chunk.end
        return logits

    @torch.inference_mode()
    def expected(self, ids: list[int], slot: int | None) -> torch.Tensor:
        """What the model itself says after the last token."""
        row = torch.tensor([ids])
        if slot == 0:
            embeddings = torch.cat(
                [self.embeddings[None], self.model.get_input_embeddings()(row)], 1
            )
            return self.model(inputs_embeds=embeddings, use_cache=False).logits[0, -1]
        cache = DynamicCache()
        if slot == 1:
            for layer, pair in enumerate(zip(self.keys, self.values, strict=True)):
                cache.update(*(each[None] for each in pair), layer)
        return self.model(row, past_key_values=cache).logits[0, -1]

    def check(self, ids: list[int], slot: int | None, logits: torch.Tensor) -> None:
        expected = self.expected(ids, slot)
        assert ((logits - expected).norm() / expected.norm()).item() < TOLERANCE


@pytest.fixture(scope="module", params=BASES)
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(request.param)


@pytest.mark.parametrize("seed", range(3))
def test_in_random_pieces_beside_each_other(stage: Stage, seed: int) -> None:
    """Embeddings cut into pieces anywhere, keys and values there at once, the bare base between them."""
    rng = random.Random(seed)
    slots: list[int | None] = [0, 1, None, 0, 1]
    prompts = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 7, 30]))] for _ in slots]
    running = [(stage.sequence(ids, slot), slot) for ids, slot in zip(prompts, slots, strict=True)]
    everybody = list(running)
    while running:
        work = [
            (each, rng.randint(1, each.num_uncomputed_tokens - each.num_uninjected_tokens), slot)
            for each, slot in running
        ]
        ended = [
            (each, slot)
            for each, count, slot in work
            if count + each.num_uninjected_tokens == each.num_uncomputed_tokens
        ]
        for (each, slot), logits in zip(ended, stage.step(*work), strict=True):
            stage.check(each.token_ids, slot, logits)
            if len(each.token_ids) < 34:
                each.token_ids.append(rng.randrange(VOCAB_SIZE))
            else:
                running.remove((each, slot))
    for each, _ in everybody:
        stage.blocks.free(each)


def test_a_cleared_slot_holds_nothing(stage: Stage) -> None:
    """An evicted tenant's tokens do not stay behind in memory, and what they were read from is untouched."""
    embeddings = torch.ones(3, stage.embeddings.shape[1])
    virtual = stage.runner.slots.virtual
    virtual.write(5, VirtualTokens(embeddings))
    held = virtual._held[5].embeddings
    virtual.clear(5)
    virtual.clear(5)
    assert held is not None
    assert not held.any()
    assert embeddings.all()
