"""A reward of one's own: any function of prompt, what was said, and the row's answer."""

from typing import Any


def brief(prompt: Any, said: str, answer: str) -> float:
    """1 for a single word, less for each more; nothing for silence."""
    words = len(said.split())
    return 1.0 / words if words else 0.0
