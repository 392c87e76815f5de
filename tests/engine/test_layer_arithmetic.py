"""A linear layer with every form of update beside it, mixed, held against the formula in double precision."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from lorry_server.engine.adapters.weights import LinearUpdate, RowsUpdate
from lorry_server.engine.lora.layer import LoraLinear
from lorry_server.engine.lora.merged import MergedStep, divide, fold
from lorry_server.engine.lora.rows import LONG_RUN, Run, StepRows
from lorry_server.engine.lora.slots import LoraSlots
from lorry_server.engine.lora.step import LoraStep

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

SLOTS, MAX_RANK = 6, 16
IN, OUT = 24, 40
TOLERANCE = 2e-5  # float32 sums of some hundred products of unit size
FIELDS = ("factors", "in_delta", "out_delta", "bias", "weight", "rows")


def update(generator: torch.Generator, *fields: str) -> LinearUpdate:
    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return LinearUpdate(
        a=some(5, IN) if "factors" in fields else None,
        b=some(5, OUT) if "factors" in fields else None,
        in_delta=some(IN) if "in_delta" in fields else None,
        out_delta=some(OUT) if "out_delta" in fields else None,
        bias=some(OUT) if "bias" in fields else None,
        weight=some(OUT, IN) if "weight" in fields else None,
        rows=RowsUpdate(torch.tensor([3, 17]), some(2, IN)) if "rows" in fields else None,
    )


def formula(layer: nn.Linear, x: torch.Tensor, u: LinearUpdate | None) -> torch.Tensor:
    """`LinearUpdate`'s own sentence, term by term."""
    x, w = x.double(), layer.weight.double()
    y = x @ w.t()
    base = y if layer.bias is None else y + layer.bias.double()
    if u is None:
        return base
    added = torch.zeros_like(base)
    if u.in_delta is not None:
        added += (x * u.in_delta.double()) @ w.t()
    if u.out_delta is not None:
        added += u.out_delta.double() * y
    if u.a is not None and u.b is not None:
        added += x @ u.a.double().t() @ u.b.double()
    if u.weight is not None:
        added += x @ u.weight.double().t()
    if u.rows is not None:
        added[:, u.rows.indices] += x @ u.rows.delta.double().t()
    if u.bias is not None:
        added += u.bias.double()
    return base + added


def runs_of(rng: random.Random, num_tokens: int) -> list[Run]:
    """Every length, and tokens of the bare base between them."""
    runs, start = [], 0
    while start < num_tokens:
        end = min(num_tokens, start + rng.choice([1, 1, 2, LONG_RUN - 1, LONG_RUN + 3]))
        slot = rng.choice([None, *range(SLOTS)])
        if slot is not None:
            runs.append(Run(start, end, slot))
        start = end
    return runs


@torch.inference_mode()
def check(
    layer: nn.Linear,
    slots: LoraSlots,
    resident: dict[int, LinearUpdate],
    rng: random.Random,
    *,
    merged: int | None = None,
) -> None:
    """`merged` is the slot whose adapter is folded into the weights."""
    step = LoraStep()

    def rows(runs: list[Run]) -> StepRows | None:
        return StepRows(runs, MAX_RANK, SLOTS) if runs else None

    wrapped = LoraLinear(layer, "layer", slots, step, head=False)
    for num_tokens in (1, 3, 30, 90):
        runs = runs_of(rng, num_tokens)
        step.tokens, step.merged = rows(runs), None
        if merged is not None and any(run.slot == merged for run in runs):
            divided = divide(runs, merged, num_tokens, torch.device("cpu"), rows)
            assert divided is not None
            shadow = fold(resident[merged], layer.weight, layer.bias, torch.float32)
            step.merged = MergedStep({"layer": shadow}, divided, None)
        x = torch.randn(1, num_tokens, IN)
        before = x.clone()
        y = wrapped(x)
        assert x.equal(before), "the input belongs to the model"
        owner: list[int | None] = [None] * num_tokens
        for run in runs:
            owner[run.start : run.end] = [run.slot] * (run.end - run.start)
        for token, slot in enumerate(owner):
            mine = resident.get(slot) if slot is not None else None
            expected = formula(layer, x[0, token : token + 1], mine)[0]
            scale = max(1.0, expected.abs().max().item())
            assert (y[0, token] - expected).abs().max() <= TOLERANCE * scale, (token, slot)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_form_of_update_in_one_batch(seed: int, bias: bool) -> None:
    """Each form alone, all at once, and a slot that does not act on the layer."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    layer = nn.Linear(IN, OUT, bias=bias).requires_grad_(False)
    slots = LoraSlots(SLOTS, MAX_RANK, torch.float32, torch.device("cpu"))
    chosen = [rng.sample(FIELDS, rng.randint(1, 3)) for _ in range(SLOTS - 2)]
    resident = {slot: update(generator, *fields) for slot, fields in enumerate([FIELDS, *chosen])}
    for slot, each in resident.items():
        slots.write(slot, {"layer": each})
    check(layer, slots, resident, rng)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fields", [*((field,) for field in FIELDS), FIELDS])
def test_one_adapter_is_merged_and_nobody_else_sees_it(fields: tuple[str, ...], bias: bool) -> None:
    """Of every form, beside every form, alone in a step or among others, base tokens included."""
    rng, generator = random.Random(len(fields)), torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    layer = nn.Linear(IN, OUT, bias=bias).requires_grad_(False)
    weight = layer.weight.clone()
    slots = LoraSlots(SLOTS, MAX_RANK, torch.float32, torch.device("cpu"))
    beside = [rng.sample(FIELDS, rng.randint(1, 3)) for _ in range(SLOTS - 2)]
    resident = {slot: update(generator, *each) for slot, each in enumerate([fields, *beside])}
    for slot, each in resident.items():
        slots.write(slot, {"layer": each})
    for _ in range(3):
        check(layer, slots, resident, rng, merged=0)
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("field", FIELDS)
def test_a_slot_that_was_given_up_leaves_nothing(field: str) -> None:
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    layer = nn.Linear(IN, OUT).requires_grad_(False)
    slots = LoraSlots(SLOTS, MAX_RANK, torch.float32, torch.device("cpu"))
    first, second = update(generator, *FIELDS), update(generator, field)
    slots.write(0, {"layer": first})
    slots.write(1, {"layer": first})
    slots.clear(0)
    check(layer, slots, {1: first}, rng)
    slots.write(0, {"layer": second})
    check(layer, slots, {0: second, 1: first}, rng)
    slots.clear(0)
    slots.clear(1)
    assert not any(vectors.dense for vectors in slots.vectors.values())
    for vectors in slots.vectors.values():
        for table in (vectors.in_delta, vectors.out_delta, vectors.bias):
            assert not table.members
            assert not table._rows[:2].any()
    check(layer, slots, {}, rng)
