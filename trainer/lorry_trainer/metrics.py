"""How an answer is compared with the expected one: from 0 to 1, over normalised text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

# Scripts that put no blanks between words: each character counts as one.
UNSPACED = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
_UNSPACED = "".join(rf"\p{{{script}}}" for script in UNSPACED)
_LETTER = r"\p{L}\p{N}\p{M}"  # with the marks that Hindi or pointed Arabic set on one, which `\w` leaves out
_ONE = rf"[{_UNSPACED}]\p{{M}}*"
_WORDS = regex.compile(rf"{_ONE}|(?:(?![{_UNSPACED}])[{_LETTER}])+")
_WORDS_AND_SIGNS = regex.compile(rf"{_ONE}|(?:(?![{_UNSPACED}])[{_LETTER}_])+|[^{_LETTER}_\s]")


def normalised(text: str) -> str:
    """Case, kinds of blank space and ways to compose a letter do not count."""
    plain = unicodedata.normalize("NFD", text).casefold()  # Unicode 3.13, D145
    return " ".join(unicodedata.normalize("NFC", plain).split())


def words(text: str) -> list[str]:
    """Letters and digits with their marks, in normalised form; signs part them."""
    found: list[str] = _WORDS.findall(normalised(text))
    return found


def share_in(scripts: Sequence[str], texts: Sequence[str]) -> float:
    """How many of the words are in one of the scripts, from 0 to 1."""
    begins = regex.compile("|".join(rf"\p{{{script}}}" for script in scripts))
    found = [begins.match(word) is not None for text in texts for word in words(text)]
    return sum(found) / max(len(found), 1)


def exact_match(answer: str, expected: str) -> float:
    return float(normalised(answer) == normalised(expected))


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over words and signs, whatever their order."""
    got, wanted = (
        Counter(_WORDS_AND_SIGNS.findall(normalised(text))) for text in (answer, expected)
    )
    shared = sum((got & wanted).values())
    if not got or not wanted:
        return float(got == wanted)
    return 2 * shared / (sum(got.values()) + sum(wanted.values()))


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Row by row: 1 where ours is the better reward, 0 where theirs is, ½ where neither. The mean is the win rate, ties
    counted as in AlpacaEval (Dubois et al. 2024, arXiv 2404.04475)."""
    return [(a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True)]
