"""The rule by which adapters are merged without being asked for: by what they earned, with hysteresis."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from lorry_server.engine.automerge import ENOUGH, PAID, SAVED, AutoMerge
from lorry_server.engine.merging import Situation, decide

from .rig import Rig

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

MakeRig = Callable[..., Rig]
ALONE: Mapping[str | None, int] = {"a": 10}


def steps(rule: AutoMerge, tokens: Mapping[str | None, int], count: int) -> None:
    for _ in range(count):
        rule.account(tokens)


def until(rule: AutoMerge, tokens: Mapping[str | None, int], current: str | None) -> int:
    """How many such steps it takes until something else than `current` is to be merged."""
    for count in range(1, 100_000):
        rule.account(tokens)
        if rule.choose(current) != current:
            return count
    raise AssertionError("never")


def test_it_is_merged_once_it_has_earned_what_a_merge_costs() -> None:
    rule = AutoMerge()
    count = until(rule, ALONE, None)
    assert rule.choose(None) == "a"
    assert (count - 1) * 10 * SAVED < ENOUGH <= count * 10 * SAVED


def test_it_stays_until_it_has_lost_as_much_again() -> None:
    """However long it earned: what was popular once is not kept for ever."""
    rule = AutoMerge()
    steps(rule, ALONE, 100_000)
    count = until(rule, {None: 10}, "a")
    assert rule.choose("a") is None
    assert ENOUGH / (10 * PAID) * 0.05 < count <= 2 * ENOUGH / (10 * PAID)


def test_a_mixture_in_which_nobody_dominates_merges_nobody() -> None:
    rule = AutoMerge()
    for tokens in ({"a": 10, "b": 10, None: 10}, {"a": 5, "b": 5}, {None: 30}, {}):
        steps(rule, tokens, 5000)
        assert rule.choose(None) is None


def test_short_spells_change_nothing() -> None:
    """A burst of another adapter neither unmerges the one that dominates nor gets merged itself."""
    rng = random.Random(0)
    rule = AutoMerge()
    steps(rule, ALONE, 5000)
    changes = 0
    for _ in range(300):
        steps(rule, ALONE, rng.randint(20, 60))
        steps(rule, {"b": 10}, rng.randint(1, 12))
        changes += rule.choose("a") != "a"
    assert changes == 0


def test_another_one_takes_over_when_it_leads_by_a_merge() -> None:
    rule = AutoMerge()
    steps(rule, ALONE, 5000)
    count = until(rule, {"b": 10}, "a")
    steps(rule, {"b": 10}, 5000)
    assert rule.choose("a") == "b"
    assert count > 1


def test_what_cannot_be_merged_is_not_tried_again() -> None:
    rule = AutoMerge()
    steps(rule, ALONE, 5000)
    rule.give_up("a")
    steps(rule, ALONE, 5000)
    assert rule.choose(None) is None


def test_an_operator_lets_everybody_begin_anew() -> None:
    rule = AutoMerge()
    steps(rule, ALONE, 5000)
    rule.forget()
    assert rule.choose(None) is None
    assert until(rule, ALONE, None) > 1


@pytest.mark.parametrize(
    ("now", "decided"),
    [
        ({"pays": "a"}, ("a", "auto")),
        ({"pays": None, "current": "a"}, (None, "auto")),
        ({"pays": "a", "current": "a", "others_run": True}, ("a", "auto")),
        ({"pays": "a", "wish": "b"}, ("b", "request")),
        ({"pays": "a", "current": "b", "held": True}, ("b", "request")),
        ({"pays": "a", "ordered": "b"}, ("b", "operator")),
        ({"pays": "a", "starved": True}, (None, "request")),
    ],
)
def test_orders_and_requests_come_first(
    now: dict[str, object], decided: tuple[str | None, str]
) -> None:
    nothing: dict[str, object] = dict.fromkeys(("current", "ordered", "wish", "pays"))
    nothing |= dict.fromkeys(("held", "starved", "others_run"), False)
    assert decide(Situation(**{**nothing, "is_auto": True, **now})) == decided  # type: ignore[arg-type]


def test_an_engine_merges_the_one_that_dominates_and_lets_go_of_it(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [5, 6, 7, 8, 9]
    monkeypatch.setattr(AutoMerge.__init__, "__defaults__", (40.0,))
    with make_rig(auto_merge=True) as rig:
        right = {each: rig.generate(prompt, each) for each in ("b", None)}
        for _ in range(60):
            rig.generate(prompt, "a", max_tokens=8)
            merge = rig.engine.stats().merge
            if merge is not None and merge.active:
                break
        merge = rig.until(lambda stats: stats.merge is not None and stats.merge.active).merge
        assert merge is not None
        assert (merge.digest, merge.cause) == ("a", "auto")
        assert {each: rig.generate(prompt, each) for each in right} == right
        for _ in range(60):
            rig.generate(prompt, None, max_tokens=8)
        rig.until(lambda stats: stats.merge is None)
