"""A small share of the attack that `loadtests/registry_fuzz.py` is: a few hundred hostile files and requests."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "loadtests"))

import registry_fuzz as fuzz


def test_a_registry_survives_what_strangers_send() -> None:
    with fuzz.registry() as target:
        report = fuzz.attack(target, files=60, requests=300, seed=20)
    assert report.faults == []
    kinds = {answer.partition(" ")[2] for answer in report.answers}
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= kinds
    assert {name.partition(" ")[0] for name in report.answers} >= {
        method.name for method in fuzz.methods() if method.name in ("CreateVersion", "WriteBlob")
    }


def test_the_same_seed_sends_the_same_bytes() -> None:
    for make in (
        fuzz.hostile_adapter,
        lambda rng: fuzz.any_message(rng, fuzz.methods()[0].input_type),
    ):
        assert make(random.Random(5)) == make(random.Random(5))


def test_a_fault_is_reported(tmp_path: Path) -> None:
    """A fuzzer that cannot fail proves nothing."""

    class Broken:
        def __init__(self, target: fuzz.Target) -> None:
            self.address, self.process, self.root = target.address, target.process, target.root
            self.log = tmp_path / "log"
            self.log.write_text("Traceback (most recent call last): boom")
            self.rss_bytes = iter((0, fuzz.MAX_GROWTH_BYTES + 1)).__next__
            self.outside = iter((set(), {"evil"})).__next__

    with fuzz.registry() as target:
        report = fuzz.attack(Broken(target), files=1, requests=1, seed=1)  # type: ignore[arg-type]
    for fault in ("outside the home: ['evil']", "grew from 0", "Traceback"):
        assert any(fault in said for said in report.faults), report.faults


@pytest.mark.parametrize("seed", range(20))
def test_hostile_adapters_are_hostile(seed: int) -> None:
    files = fuzz.hostile_adapter(random.Random(seed))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files)
