"""An adapter that loads must act: what it changes is measured, kept, and never nothing by accident."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel

from lorry_bases.load import load_base
from lorry_server.engine.adapters.recipe import Method, Recipe, Term
from lorry_server.engine.effect import EffectMeter

from .bases import save_adapter
from .rig import Rig
from .test_kinds import make_adapter

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

MakeRig = Callable[..., Rig]
PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def adapters(base_folder: Callable[[str], Path], tmp_path_factory: Any) -> dict[str, Path]:
    """One that acts, one that does nothing, the same saying so, one of a few tokens alone, one beyond all numbers."""
    base, root = base_folder("llama"), tmp_path_factory.mktemp("effects")
    layers = {"r": 4, "target_modules": ["q_proj"]}
    made = {
        "acts": save_adapter(base, root / "acts", seed=0, **layers),
        "nil": save_adapter(base, root / "nil", seed=0, strength=0.0, **layers),
        "meant": save_adapter(base, root / "meant", seed=0, strength=0.0, **layers),
        "huge": save_adapter(
            base, root / "huge", seed=0, strength=1e37, r=4, target_modules=["q_proj", "k_proj"]
        ),
        "tokens": make_adapter(
            base, root / "tokens", LoraConfig(**layers, trainable_token_indices=[3, 77]), seed=0
        ),
    }
    config = made["meant"] / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "allow_no_effect": True}))
    return made


def test_one_that_does_nothing_is_refused_and_leaves_no_trace(make_rig: MakeRig) -> None:
    with make_rig(slots=1) as rig:
        before = rig.generate(PROMPT)
        rig.submit("nil", PROMPT, "nil")
        rig.submit("base", PROMPT)
        rig.wait("nil", "base")
        error: Any = rig.error("nil")
        assert error.reason == "ADAPTER_HAS_NO_EFFECT"
        assert "allow_no_effect" in error.message
        assert rig.tokens("base") == before
        assert rig.idle().slots_used == 0
        # The slot is cleared behind the answer, by the thread that writes slots.
        rig.engine._loader._writer.submit(lambda: None).result(timeout=30)
        assert all(not pool.ranks for pool in rig.engine._runner.slots.linears.pools.values())
        assert rig.generate(PROMPT, "acts") != before

        refused = rig.engine.load("nil")
        with pytest.raises(type(error), match="changes nothing"):
            refused.result(timeout=30)


def test_one_that_is_meant_to_do_nothing_is_served(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        assert rig.generate(PROMPT, "meant") == rig.generate(PROMPT)
        (resident,) = rig.idle().residents
        assert resident.logit_change == 0


def test_one_whose_numbers_are_not_finite_is_refused(make_rig: MakeRig) -> None:
    with make_rig() as rig:
        rig.submit("huge", PROMPT, "huge")
        rig.wait("huge")
        error: Any = rig.error("huge")
        assert error.reason == "ADAPTER_NOT_FINITE"
        assert rig.idle().slots_used == 0


def test_new_embeddings_of_a_few_tokens_are_seen(make_rig: MakeRig) -> None:
    """The prompt of the measurement holds the tokens whose embeddings are new: no others would tell."""
    with make_rig() as rig:
        rig.generate(PROMPT, "tokens")
        (resident,) = rig.idle().residents
        assert resident.logit_change
        assert resident.logit_change > 0


def test_the_measure_is_the_largest_change_of_a_logit(
    make_rig: MakeRig, adapters: dict[str, Path], base_folder: Callable[[str], Path]
) -> None:
    with make_rig() as rig:
        rig.generate(PROMPT, "acts")
        (resident,) = rig.idle().residents
        prompt = torch.tensor([rig.engine._runner.effects._prompt])
    model = PeftModel.from_pretrained(
        load_base(str(base_folder("llama")), device="cpu").model, adapters["acts"]
    )
    with torch.inference_mode():
        change = model(prompt).logits[0, -1]
        with model.disable_adapter():
            change = change - model(prompt).logits[0, -1]
    assert resident.logit_change == pytest.approx(change.abs().max().item(), abs=1e-4)


def test_a_composition_may_come_to_nothing(make_rig: MakeRig) -> None:
    """It is asked for by the request, and no publisher thinks that it acts."""
    with make_rig() as rig:
        nothing = Recipe((Term("acts", 0.0),), Method.SUM)
        assert rig.generate(PROMPT, rig.compose(nothing)) == rig.generate(PROMPT)


def test_an_adapter_is_measured_once(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a small forward pass between two steps: one that comes and goes pays for it at first alone."""
    measured: list[int] = []
    measure = EffectMeter.measure

    def counted(self: EffectMeter, slot: int, probe: Any) -> float:
        measured.append(slot)
        return measure(self, slot, probe)

    monkeypatch.setattr(EffectMeter, "measure", counted)
    with make_rig(slots=1) as rig:
        for name in ("acts", "tokens", "acts", "tokens"):
            rig.generate(PROMPT, name)
        assert rig.idle().evictions == 3
    assert len(measured) == 2


def test_it_disturbs_nobody(make_rig: MakeRig) -> None:
    """No KV block that others could have, and no prefix, is touched."""
    with make_rig(kv_blocks=8) as rig:
        long = [*range(2, 50)]
        alone = rig.generate(long, max_tokens=10)
        rig.submit("running", long, max_tokens=10)
        rig.wait_for_tokens("running", 1)
        rig.engine.load("acts").result(timeout=30)
        rig.wait("running")
        assert rig.tokens("running") == alone
        assert rig.idle().kv_blocks_used == 0
