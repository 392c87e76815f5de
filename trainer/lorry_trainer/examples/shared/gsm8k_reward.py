"""A reward that a small base can earn: whether an answer comes to a result, not whether that is right."""

from __future__ import annotations

import re
from typing import Any

_RESULT = re.compile(r"answer: \$?-?\d[\d,.]*$", re.IGNORECASE)
_NUMBER = re.compile(r"\d[.\s]*$")


def result(prompt: Any, said: str, answer: str) -> float:
    """1 for a last line `Answer: 72`, 0.5 for another end with a number, else 0: a text that never ends, mostly."""
    text = said.strip()
    if _RESULT.search(text):
        return 1.0
    return 0.5 if _NUMBER.search(text) else 0.0
