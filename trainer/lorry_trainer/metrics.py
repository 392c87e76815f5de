"""How an answer is compared with the expected one: from 0 to 1, over normalised text. A function and a line each."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

Metric = Callable[[str, str], float]


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


METRICS: dict[str, Metric] = {"exact_match": exact_match, "token_f1": token_f1}


def means(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Each metric's mean over all rows."""
    return {
        name: sum(map(metric, answers, expected)) / len(expected)
        for name, metric in METRICS.items()
    }
