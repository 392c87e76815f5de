"""How an answer is compared with the expected one: from 0 to 1, over normalised text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter


def normalised(text: str) -> str:
    """Case, kinds of blank space and ways to compose a letter do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


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
