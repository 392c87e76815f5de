"""The packed, paged forward pass says what the model itself says, whatever was cut where and who stands beside
it."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import PreTrainedConfig

from lorry_bases.shapes import linear_shapes
from lorry_server.engine.block_manager import BlockManager
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.model_runner import ModelRunner
from lorry_server.engine.plan import Chunk
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.engine.sequence import Sequence

from .bases import CONFIGS, CONTEXT_LENGTH, EXPERTS, VOCAB_SIZE, WINDOW, other_head, random_model

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

# Relative, L2. Float32 attention over other block sizes rounds to about 3e-7; a wrong position, mask or page is
# off by more than 1e-2 (see the test of the window).
TOLERANCE = 1e-5


class Packed:
    """A model behind the paged forward, and the same model by itself."""

    def __init__(self, config: PreTrainedConfig, *, block_size: int = 8) -> None:
        self.model = random_model(config)
        served = random_model(config)
        engine = EngineConfig(
            slots=1, max_rank=1, block_size=block_size, kv_blocks=160, max_batched_tokens=512
        )
        self.runner = ModelRunner(served, engine, linear_shapes(served), CONTEXT_LENGTH)
        self.blocks = BlockManager(self.runner.num_blocks, block_size)

    def sequence(self, token_ids: list[int]) -> Sequence:
        request = GenerationRequest("s", tuple(token_ids), SamplingParams(max_tokens=1))
        return Sequence(request, 0.0, list(token_ids))

    def step(self, *work: tuple[Sequence, int]) -> list[torch.Tensor]:
        """Computes the next tokens of some sequences together; returns the logits of those that reached their
        end."""
        chunks = [Chunk(each, num_tokens, slot=None) for each, num_tokens in work]
        for chunk in chunks:
            self.blocks.allocate(chunk.sequence, chunk.num_tokens)
        logits = list(self.runner.logits(chunks))
        for chunk in chunks:
            chunk.sequence.num_computed_tokens += chunk.num_tokens
        return logits

    def check(self, token_ids: list[int], logits: torch.Tensor) -> None:
        with torch.inference_mode():
            expected = self.model(torch.tensor([token_ids]), use_cache=False).logits[0, -1]
        assert ((logits - expected).norm() / expected.norm()).item() < TOLERANCE


@pytest.fixture(scope="module", params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def packed(name: str) -> Packed:
    return Packed(CONFIGS[name])


def prompt(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCAB_SIZE) for _ in range(length)]


@pytest.mark.parametrize("length", [1, 8, 9, CONTEXT_LENGTH])
def test_a_prompt_in_one_piece(packed: Packed, length: int) -> None:
    ids = prompt(length, length)
    each = packed.sequence(ids)
    [logits] = packed.step((each, length))
    packed.check(ids, logits)
    packed.blocks.free(each)


@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_in_random_pieces(packed: Packed, seed: int) -> None:
    """Pieces of one token among them, which are computed as if they were decoded."""
    rng, ids = random.Random(seed), prompt(seed, 61)
    each = packed.sequence(ids)
    logits: list[torch.Tensor] = []
    while each.num_uncomputed_tokens:
        assert not logits
        piece = rng.choice([1, 2, 5, 13, 30])
        logits = packed.step((each, min(piece, each.num_uncomputed_tokens)))
    packed.check(ids, logits[0])
    packed.blocks.free(each)


def test_an_output_head_of_its_own_where_it_was_tied_and_tied_where_it_was_not(name: str) -> None:
    packed, ids = Packed(other_head(CONFIGS[name])), prompt(0, 40)
    each = packed.sequence(ids)
    for piece in (20, 19):
        packed.step((each, piece))
    packed.check(ids, packed.step((each, 1))[0])


@pytest.mark.parametrize("seed", range(2))
def test_sequences_of_all_lengths_and_stages_together(packed: Packed, seed: int) -> None:
    """Some decode, some are prefilled in pieces, some wait a step; they come and go, and blocks change
    hands."""
    rng = random.Random(seed)
    running: list[Sequence] = []
    checked = 0
    for number in range(30):
        if len(running) < 6:
            running.append(packed.sequence(prompt(number, rng.choice([1, 5, 16, 40, 90]))))
        working = rng.sample(running, rng.randint(1, len(running)))
        work = [(each, rng.randint(1, each.num_uncomputed_tokens)) for each in working]
        ready = [each for each, count in work if count == each.num_uncomputed_tokens]
        for each, logits in zip(ready, packed.step(*work), strict=True):
            packed.check(each.token_ids, logits)
            checked += 1
            each.token_ids.append(rng.randrange(VOCAB_SIZE))
            if rng.random() < 0.2 or len(each.token_ids) == CONTEXT_LENGTH:
                running.remove(each)
                packed.blocks.free(each)
    assert checked > 20
    for each in running:
        packed.blocks.free(each)


def test_a_shared_prefix_is_read_and_not_computed_again(packed: Packed) -> None:
    ids = prompt(5, 40)
    first = packed.sequence(ids)
    packed.step((first, 40))
    packed.blocks.commit(first)
    other_ids = [*ids[:30], *prompt(6, 10)]
    other = packed.sequence(other_ids)
    assert packed.blocks.admit(other, budget=100) == 16
    [logits] = packed.runner.logits([Chunk(other, 16, slot=None)])
    packed.check(other_ids, logits)
    packed.blocks.free(first)
    packed.blocks.free(other)


def test_the_window_is_smaller_than_the_prompts() -> None:
    """The bound would see it if the window were ignored: without it, Mistral says something else."""
    ids = prompt(0, 4 * WINDOW)
    model = random_model(CONFIGS["mistral"])
    blind = random_model(CONFIGS["mistral"])
    blind.config.sliding_window = None
    with torch.inference_mode():
        right, wrong = (m(torch.tensor([ids])).logits[0, -1] for m in (model, blind))
    assert (right - wrong).norm() / right.norm() > 1000 * TOLERANCE


def test_the_packed_logits_of_a_sequence_do_not_depend_on_its_neighbours(
    packed: Packed, name: str
) -> None:
    """Bit for bit, where the step has the same shape: no token of another sequence is ever read.

    Experts take the tokens of all sequences in one product each, whose shape is the neighbours' doing.
    """
    ids = prompt(1, 11)
    seen = []
    for seed in (2, 3):
        beside = [packed.sequence(prompt(seed, 20)) for _ in range(3)]
        each = packed.sequence(ids)
        work = [(beside[0], 20), (beside[1], 5), (each, 10), (beside[2], 20)]
        packed.step(*work)
        for other in beside[::2]:
            other.token_ids.append(seed)
        seen.append(packed.step((beside[0], 1), (each, 1), (beside[2], 1))[1])
        for sequence in (*beside, each):
            packed.blocks.free(sequence)
    if name in EXPERTS:
        torch.testing.assert_close(seen[0], seen[1], rtol=TOLERANCE, atol=TOLERANCE)
    else:
        assert seen[0].equal(seen[1])
