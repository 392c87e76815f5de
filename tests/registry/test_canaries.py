"""Which version a key gets: in proportion to the weights, the same everywhere, and moved by no more than it must be."""

import math

import pytest

from lorry_registry.canaries import MAX_STICKY_KEY_BYTES, check_sticky_key, choose, heaviest
from lorry_registry.errors import InvalidArgument

from .helpers import fingerprint

A, B, C = (fingerprint(letter) for letter in "abc")
KEYS = [f"user-{n}".encode() for n in range(5_000)]


def choices(*weights: int, salt: str = "default/support@production") -> list[str]:
    targets = list(zip((A, B, C), weights, strict=False))
    return [targets[choose(targets, salt=salt, key=key)][0] for key in KEYS]


@pytest.mark.parametrize("weights", [(90, 10), (1, 1), (1, 999), (60, 30, 10)])
def test_shares_are_those_of_the_weights(weights: tuple[int, ...]) -> None:
    """Within five standard deviations of the binomial distribution: one run in two million goes beyond."""
    chosen = choices(*weights)
    for digest, weight in zip((A, B, C), weights, strict=False):
        share = weight / sum(weights)
        deviation = math.sqrt(len(KEYS) * share * (1 - share))
        assert abs(chosen.count(digest) - len(KEYS) * share) < 5 * deviation


def test_a_change_of_weights_moves_keys_to_those_that_gain_alone() -> None:
    before, after = choices(90, 10), choices(80, 20)
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {(A, B)}
    assert sum(old != new for old, new in zip(before, after, strict=True)) == (
        after.count(B) - before.count(B)
    )


def test_another_target_takes_its_share_of_each_and_moves_nothing_else() -> None:
    before, after = choices(60, 30), choices(60, 30, 10)
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {C}


def test_the_order_of_the_targets_does_not_count() -> None:
    targets = [(A, 90), (B, 10)]
    for key in KEYS[:500]:
        one = targets[choose(targets, salt="s", key=key)]
        other = targets[::-1][choose(targets[::-1], salt="s", key=key)]
        assert one == other


def test_two_aliases_do_not_send_the_same_keys_to_their_canaries() -> None:
    """Else the same users would be the ones who try everything."""
    one, other = choices(90, 10, salt="x@production"), choices(90, 10, salt="y@production")
    both = sum(a == b == B for a, b in zip(one, other, strict=True))
    assert both < len(KEYS) * 0.1 * 0.2


def test_the_choice_is_the_same_in_every_version_of_lorry() -> None:
    """Servers of two versions stand side by side while one is rolled out."""
    assert [n for n, digest in enumerate(choices(90, 10)[:24]) if digest == B] == [3, 7, 20]


def test_without_a_key_it_is_what_most_requests_get() -> None:
    assert heaviest([10, 90]) == 1
    assert heaviest([5, 5]) == 0


def test_a_key_has_a_bound() -> None:
    assert check_sticky_key("k" * MAX_STICKY_KEY_BYTES) == b"k" * MAX_STICKY_KEY_BYTES
    with pytest.raises(InvalidArgument) as caught:
        check_sticky_key("ü" * MAX_STICKY_KEY_BYTES)
    assert caught.value.reason == "STICKY_KEY_INVALID"
