"""How an answer is compared with the expected one: from 0 to 1, over normalised text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence


def normalised(text: str) -> str:
    """Case, kinds of blank space and ways to compose a letter do not count."""
    plain = unicodedata.normalize("NFD", text).casefold()  # Unicode 3.13, D145
    return " ".join(unicodedata.normalize("NFC", plain).split())


def exact_match(answer: str, expected: str) -> float:
    return float(normalised(answer) == normalised(expected))


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over words and signs, whatever their order."""
    got, wanted = (
        Counter(re.findall(r"\w+|[^\w\s]", normalised(text))) for text in (answer, expected)
    )
    shared = sum((got & wanted).values())
    if not got or not wanted:
        return float(got == wanted)
    return 2 * shared / (sum(got.values()) + sum(wanted.values()))


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Row by row: 1 where ours is the better reward, 0 where theirs is, ½ where neither. The mean is the win rate, ties
    counted as in AlpacaEval (Dubois et al. 2024, arXiv 2404.04475)."""
    return [(a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True)]
