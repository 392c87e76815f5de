"""Which split a row belongs to, decided by its question and the seed.

By chance, a row never moves when others are added or reordered. Stratified, each label has its share in every split,
and an added row can move one at the border. Equal questions stay together either way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from lorry_trainer.formats.contract import Example
from lorry_trainer.recipe import Splits

SPLITS = ("train", "validation", "test")


def by_chance(rows: list[Example], shares: Splits, seed: int) -> list[str]:
    """The split of each row: a number from 0 to 1 made of question and seed, test at the low end."""
    return [_place(_number(f"{seed}:{row.key}"), shares.test, shares.validation) for row in rows]


def stratified(
    rows: list[Example], shares: Splits, seed: int, label_of: Callable[[Example], str]
) -> list[str]:
    """The split of each row. Within a label the rows with the lowest numbers are the test's, as many as its share,
    rounded up or down by a number of the label's own; one at least is left to train on."""
    label = {row.key: label_of(row) for row in reversed(rows)}
    strata: dict[str, list[str]] = {}
    for key, name in label.items():
        strata.setdefault(name, []).append(key)
    split: dict[str, str] = {}
    for name, keys in strata.items():
        keys.sort(key=lambda key: _number(f"{seed}:{key}"))
        chance = _number(f"{seed}:label:{name}")
        test = min(math.floor(shares.test * len(keys) + chance), len(keys) - 1)
        both = math.floor((shares.test + shares.validation) * len(keys) + chance)
        held_out = min(max(both, test), len(keys) - 1)
        for at, key in enumerate(keys):
            split[key] = "test" if at < test else "validation" if at < held_out else "train"
    return [split[row.key] for row in rows]


def _place(at: float, test: float, validation: float) -> str:
    if at < test:
        return "test"
    return "validation" if at < test + validation else "train"


def _number(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
