"""Paged KV memory: what is shared, what never is, what goes first, and books that always agree."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from lorry_server.engine.block_manager import BlockManager, block_hash, prefix_seed
from lorry_server.engine.sequence import Sequence

from .machine import sequence

BLOCK = 4


def computed(blocks: BlockManager, prompt: Iterable[int], adapter: str | None = None) -> Sequence:
    """A sequence whose prompt has been computed to the end."""
    each = sequence("s", prompt, adapter=adapter)
    while each.num_uncomputed_tokens:
        if each.block_table:
            num_tokens = each.num_uncomputed_tokens
            assert blocks.can_allocate(each, num_tokens)
            blocks.allocate(each, num_tokens)
        else:
            admitted = blocks.admit(each, budget=1 << 30)
            assert admitted is not None
            num_tokens = admitted
        each.num_computed_tokens += num_tokens
        blocks.commit(each)
    return each


def test_a_prefix_is_shared_by_whole_blocks() -> None:
    blocks = BlockManager(16, BLOCK)
    one = computed(blocks, range(10))
    other = sequence("b", [*range(9), 99, 99])
    assert blocks.admit(other, budget=100) == 3  # 8 of 11 tokens are there already
    assert other.block_table[:2] == one.block_table[:2]
    assert other.block_table[2] not in one.block_table
    assert (blocks.query_tokens, blocks.hit_tokens) == (10 + 11, 8)


def test_adapters_never_share_a_prefix() -> None:
    """Keys and values are the adapter's as much as the tokens': a cache keyed on tokens alone serves one tenant
    the other's thoughts."""
    blocks = BlockManager(16, BLOCK)
    computed(blocks, range(10), adapter="sha256:a")
    for adapter in ("sha256:b", None):
        other = sequence("b", range(10), adapter=adapter)
        assert blocks.admit(other, budget=100) == 10
    same = sequence("c", range(10), adapter="sha256:a")
    assert blocks.admit(same, budget=100) == 2


def test_the_seed_tells_adapters_apart() -> None:
    seeds = [prefix_seed(adapter) for adapter in (None, "sha256:a", "sha256:b", "sha256:ab")]
    assert len({*seeds, block_hash(seeds[0], []), block_hash(seeds[0], [0])}) == 6


def test_the_last_token_is_always_computed() -> None:
    """Its logits are needed, even where every block of the prompt is there."""
    blocks = BlockManager(16, BLOCK)
    computed(blocks, range(8))
    again = sequence("b", range(8))
    assert blocks.admit(again, budget=100) == 4
    assert again.num_computed_tokens == 4


def test_a_block_is_found_only_once_it_is_computed() -> None:
    blocks = BlockManager(16, BLOCK)
    one = sequence("a", range(12))
    assert blocks.admit(one, budget=6) == 6
    two = sequence("b", range(12))
    assert blocks.admit(two, budget=6) == 6, "nothing of the first was computed yet"
    one.num_computed_tokens = 6
    blocks.commit(one)
    three = sequence("c", range(12))
    assert blocks.admit(three, budget=100) == 8, "its half block is nobody's prefix"


@pytest.mark.parametrize(("prompt", "to_compute"), [(range(9), 5), (range(50, 59), 1)])
def test_a_prefix_outlives_its_sequence_until_its_place_is_needed(
    prompt: range, to_compute: int
) -> None:
    """The least recently released goes first, and of a prefix its end before its beginning."""
    blocks = BlockManager(6, BLOCK)
    old = computed(blocks, range(8))
    young = computed(blocks, range(50, 58))
    blocks.free(old)
    blocks.free(young)
    assert blocks.num_used_blocks == 0
    # Two blocks were never used; the third place that is needed takes the end of the older prefix.
    assert len(computed(blocks, range(90, 100)).block_table) == 3
    assert blocks.admit(sequence("again", prompt), budget=100) == to_compute


def test_admission_without_room_changes_nothing() -> None:
    blocks = BlockManager(4, BLOCK)
    holder = computed(blocks, range(9))
    asks = sequence("b", [*range(8), *range(50, 58)])
    assert blocks.admit(asks, budget=100) is None
    assert asks.block_table == []
    assert asks.num_computed_tokens == 0
    assert blocks.query_tokens == 9, "what was not admitted is not counted as a query"
    blocks.check_integrity([holder])


def test_two_that_compute_the_same_keep_books_apart() -> None:
    """Neither finds the other's blocks in time; each then frees its own."""
    blocks = BlockManager(8, BLOCK)
    both = [sequence(name, range(9)) for name in "ab"]
    for each in both:
        assert blocks.admit(each, budget=100) == 9
    for each in both:
        each.num_computed_tokens = 9
        blocks.commit(each)
    blocks.check_integrity(both)
    for each in both:
        blocks.free(each)
    blocks.check_integrity([])
    assert blocks.num_free_blocks == 8
    assert blocks.admit(sequence("c", range(9)), budget=100) == 1


@pytest.mark.parametrize("seed", range(6))
def test_books_agree_whatever_happens(seed: int) -> None:
    """Random admissions, growth, commits and frees over few tokens (so that prefixes meet) in little memory."""
    rng = random.Random(seed)
    blocks = BlockManager(12, BLOCK)
    held: list[Sequence] = []
    for _ in range(600):
        act = rng.random()
        if act < 0.35:
            prompt = [rng.randrange(2) for _ in range(rng.randint(1, 20))]
            new = sequence("s", prompt, adapter=rng.choice([None, "a", "b"]))
            budget = rng.randint(1, 8)
            admitted = blocks.admit(new, budget)
            if admitted is not None:
                assert 1 <= admitted <= budget
                new.num_computed_tokens += admitted
                blocks.commit(new)
                held.append(new)
        elif act < 0.75 and held:
            grows = rng.choice(held)
            if not grows.num_uncomputed_tokens:
                grows.token_ids.append(rng.randrange(2))
            num_tokens = rng.randint(1, grows.num_uncomputed_tokens)
            if blocks.can_allocate(grows, num_tokens):
                blocks.allocate(grows, num_tokens)
                grows.num_computed_tokens += num_tokens
                blocks.commit(grows)
        elif held:
            blocks.free(held.pop(rng.randrange(len(held))))
        blocks.check_integrity(held)
    for each in held:
        blocks.free(each)
    blocks.check_integrity([])
    assert blocks.hit_tokens > 0
