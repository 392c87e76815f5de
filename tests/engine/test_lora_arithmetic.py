"""The arithmetic of LoRA for a mixed batch, held against a loop in double precision; and the memory it reads
from."""

from __future__ import annotations

import random

import pytest
import torch

from lorry_server.engine.adapters.weights import LinearUpdate
from lorry_server.engine.lora.ops import add_lora, add_lora_reference
from lorry_server.engine.lora.rows import LONG_RUN, RowPlan, Run, StepRows, merge
from lorry_server.engine.lora.slots import LayerPool, LoraSlots

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

MAX_RANK = 64
SLOTS = 6
# Float32 sums of a few hundred products of unit size: an error of 1e-6 of the largest is what the format gives,
# and a wrong row, slot or token is off by about 1.
TOLERANCE = 1e-5

Adapters = dict[int, LinearUpdate]  # by slot


def factors(rank: int, in_features: int, out_features: int, generator: torch.Generator):
    a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
    b = torch.randn(rank, out_features, generator=generator) / rank**0.5
    return LinearUpdate(a, b)


def pool_of(adapters: Adapters) -> LayerPool:
    slots = LoraSlots(SLOTS, MAX_RANK, torch.float32, torch.device("cpu"))
    for slot, each in adapters.items():
        slots.write(slot, {"layer": each})
    return slots.pools["layer"]


def plan_for(pool: LayerPool, runs: list[Run]) -> RowPlan | None:
    return StepRows(runs, MAX_RANK, SLOTS).plan(pool.ranks)


def loop(x: torch.Tensor, adapters: Adapters, runs: list[Run]) -> torch.Tensor:
    """What is to be added, one product at a time, in double precision."""
    out_features = next(iter(adapters.values())).b.shape[1]
    added = torch.zeros(len(x), out_features, dtype=torch.float64)
    for run in runs:
        if run.slot in adapters:
            each = adapters[run.slot]
            for token in range(run.start, run.end):
                added[token] = each.b.double().t() @ (each.a.double() @ x[token].double())
    return added


def check(x: torch.Tensor, pool: LayerPool, adapters: Adapters, runs: list[Run]) -> None:
    expected = loop(x, adapters, runs)
    plan = plan_for(pool, runs)
    if plan is None:
        assert not expected.any()
        return
    y = torch.randn(len(x), pool.b.shape[1])
    for add in (add_lora, add_lora_reference):
        out = y.clone()
        add(out, x, pool, plan)
        assert (out - y - expected).abs().max() <= TOLERANCE * max(1.0, y.abs().max().item())
        untouched = ~expected.any(1)
        assert out[untouched].equal(y[untouched]), "a token without an adapter was changed"


def runs_of(rng: random.Random, num_tokens: int, choices: list[int | None], lengths: list[int]):
    """Cuts a step into runs; `None` is the bare base."""
    runs: list[Run] = []
    start = 0
    while start < num_tokens:
        end = min(num_tokens, start + rng.choice(lengths))
        slot = rng.choice(choices)
        if slot is not None:
            runs.append(Run(start, end, slot))
        start = end
    return runs


@pytest.mark.parametrize("seed", range(12))
def test_a_mixed_batch_equals_a_loop(seed: int) -> None:
    """Ranks 1 to 64 mixed, runs of every length in any order, base tokens between them, and adapters in slots
    that do not target this layer."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    in_features, out_features = rng.choice([(64, 96), (33, 17), (256, 64), (8, 300)])
    resident = rng.sample(range(SLOTS), rng.randint(1, SLOTS - 1))
    ranks = [rng.choice([1, 2, 3, 4, 8, 16, 33, 63, 64]) for _ in resident]
    adapters = {
        slot: factors(rank, in_features, out_features, generator)
        for slot, rank in zip(resident, ranks, strict=True)
    }
    pool = pool_of(adapters)
    lengths = rng.choice([[1], [1, 2, 5], [1, LONG_RUN - 1, LONG_RUN, LONG_RUN + 1], [40]])
    for num_tokens in (1, 2, 7, 40, 120):
        runs = runs_of(rng, num_tokens, [None, *range(SLOTS)], lengths)
        x = torch.randn(num_tokens, in_features, generator=generator)
        check(x, pool, adapters, runs)


@pytest.mark.parametrize("num_tokens", [1, LONG_RUN - 1, LONG_RUN, 3 * LONG_RUN])
def test_a_step_of_one_adapter(num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    adapters = {2: factors(16, 32, 48, generator)}
    x = torch.randn(num_tokens, 32, generator=generator)
    check(x, pool_of(adapters), adapters, [Run(0, num_tokens, 2)])
    one_by_one = [Run(token, token + 1, 2) for token in range(num_tokens)]
    check(x, pool_of(adapters), adapters, one_by_one)


def test_a_step_without_adapters_has_no_plan() -> None:
    generator = torch.Generator().manual_seed(0)
    pool = pool_of({1: factors(4, 8, 8, generator)})
    assert plan_for(pool, []) is None
    assert plan_for(pool, [Run(0, 3, 0), Run(3, 40, 5)]) is None, "they do not target this layer"


def test_layers_with_the_same_ranks_share_a_plan() -> None:
    rows = StepRows([Run(0, 1, 0), Run(1, 2, 1)], MAX_RANK, SLOTS)
    assert rows.plan(((0, 4), (1, 8))) is rows.plan(((0, 4), (1, 8)))
    assert rows.plan(((0, 4), (1, 8))) is not rows.plan(((0, 4), (1, 16)))


def test_neighbours_of_one_adapter_become_one_run() -> None:
    runs = [Run(0, 1, 3), Run(1, 2, 3), Run(2, 4, 1), Run(5, 6, 1), Run(6, 9, 3)]
    assert merge(runs) == [Run(0, 2, 3), Run(2, 4, 1), Run(5, 6, 1), Run(6, 9, 3)]


def test_a_tokens_result_does_not_depend_on_the_others() -> None:
    """Bit for bit: who shares a decoding batch must never show in an answer."""
    generator = torch.Generator().manual_seed(0)
    adapters = {slot: factors(4 << slot, 64, 96, generator) for slot in range(5)}
    pool = pool_of(adapters)
    x = torch.randn(40, 64, generator=generator)
    base = torch.randn(40, 96, generator=generator)
    for slot in range(5):
        alone = base[:1].clone()
        plan = plan_for(pool, [Run(0, 1, slot)])
        assert plan is not None
        add_lora(alone, x[:1], pool, plan)
        for seed in range(10):
            rng = random.Random(seed)
            others = rng.sample(range(1, 40), rng.randint(1, 39))
            place = rng.randint(0, len(others))
            tokens = [*others[:place], 0, *others[place:]]
            runs = [
                Run(
                    i, i + 1, slot if token == 0 else rng.choice([s for s in range(5) if s != slot])
                )
                for i, token in enumerate(tokens)
                if token == 0 or rng.random() < 0.8
            ]
            together = base[tokens].clone()
            plan = plan_for(pool, runs)
            assert plan is not None
            assert not any(tokens.start <= place < tokens.stop for tokens, _ in plan.long_runs)
            add_lora(together, x[tokens], pool, plan)
            assert together[place].equal(alone[0])


def test_other_adapters_numbers_do_not_reach_a_token() -> None:
    """Not even where they are no numbers: an adapter whose products overflow spoils its own answers only."""
    generator = torch.Generator().manual_seed(0)
    adapters = {0: factors(8, 32, 32, generator), 1: factors(8, 32, 32, generator)}
    adapters[1].b.fill_(float("inf"))
    pool = pool_of(adapters)
    x = torch.randn(60, 32, generator=generator)
    runs = [Run(0, 1, 0), Run(1, 3, 1), Run(4, 5, 0), Run(5, 30, 1), Run(30, 60, 0)]
    y = torch.zeros(60, 32)
    plan = plan_for(pool, runs)
    assert plan is not None
    add_lora(y, x, pool, plan)
    spoiled = {token for run in runs if run.slot == 1 for token in range(run.start, run.end)}
    assert {token for token in range(60) if not y[token].isfinite().all()} == spoiled


# The memory.


def test_clearing_a_slot_zeroes_it() -> None:
    """An evicted tenant's weights do not stay behind in memory."""
    generator = torch.Generator().manual_seed(0)
    adapters = {slot: factors(8, 16, 24, generator) for slot in (0, 3)}
    slots = LoraSlots(SLOTS, MAX_RANK, torch.float32, torch.device("cpu"))
    for slot, each in adapters.items():
        slots.write(slot, {"x": each, "y": each})
    slots.clear(3)
    for pool in slots.pools.values():
        assert pool.ranks == ((0, 8),)
        rows = pool.rows(3, 8)
        assert not pool.a[rows].any()
        assert not pool.b[rows].any()
        assert pool.a[pool.rows(0, 8)].equal(adapters[0].a)
    slots.clear(3)
    slots.clear(5)


def test_a_smaller_adapter_leaves_nothing_of_the_larger_one() -> None:
    generator = torch.Generator().manual_seed(0)
    large, small = factors(64, 16, 24, generator), factors(2, 16, 24, generator)
    slots = LoraSlots(SLOTS, MAX_RANK, torch.float32, torch.device("cpu"))
    slots.write(1, {"both": large, "only large": large})
    slots.clear(1)
    slots.write(1, {"both": small})
    pool = slots.pools["both"]
    assert pool.ranks == ((1, 2),)
    assert not pool.a[pool.rows(1, MAX_RANK)][2:].any()
    assert slots.pools["only large"].ranks == ()
    check(torch.randn(20, 16, generator=generator), pool, {1: small}, [Run(0, 3, 1), Run(3, 20, 1)])


@pytest.mark.parametrize("seed", range(3))
def test_slots_that_come_and_go(seed: int) -> None:
    """Whatever was there before, a layer answers as if only what is there now had ever been written."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    slots = LoraSlots(SLOTS, MAX_RANK, torch.float32, torch.device("cpu"))
    resident: dict[int, dict[str, LinearUpdate]] = {}
    shapes = {"q": (32, 48), "v": (32, 16), "down": (64, 32)}
    for _ in range(60):
        slot = rng.randrange(SLOTS)
        slots.clear(slot)
        resident.pop(slot, None)
        if rng.random() < 0.7:
            targets = rng.sample(sorted(shapes), rng.randint(1, 3))
            resident[slot] = {
                path: factors(rng.randint(1, 64), *shapes[path], generator) for path in targets
            }
            slots.write(slot, resident[slot])
        for path, pool in slots.pools.items():
            adapters = {s: modules[path] for s, modules in resident.items() if path in modules}
            assert pool.ranks == tuple(sorted((s, each.rank) for s, each in adapters.items()))
            if adapters:
                runs = runs_of(rng, 24, [None, *range(SLOTS)], [1, 2, 20])
                x = torch.randn(24, shapes[path][0], generator=generator)
                check(x, pool, adapters, runs)
