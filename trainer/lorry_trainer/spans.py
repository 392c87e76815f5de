"""The spans that the tags of words mark: `B-x` begins one, `I-x` goes on, `O` is none.

Also with signs of their own for a span's last word and for one of a single word: BIOES (`E-`, `S-`), BILOU (`L-`,
`U-`), BMES (`M-`, `E-`, `S-`), BMEWO (`W-`).
"""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int, str]  # first word, the one after the last, kind

_MARKS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}


def spans(tags: Sequence[str]) -> set[Span]:
    """By the rules of CoNLL's conlleval: tags that do not fit the one before begin a span too."""
    found: set[Span] = set()
    start, kind = 0, ""  # of the span that is open, where one is
    for at, tag in enumerate([*tags, "O"]):
        sign, _, name = tag.partition("-")
        mark = _MARKS.get(sign) if name else None
        if kind and (mark not in ("I", "E") or name != kind):
            found.add((start, at, kind))
            kind = ""
        if mark is not None and not kind:
            start, kind = at, name
        if kind and mark in ("E", "S"):
            found.add((start, at + 1, kind))
            kind = ""
    return found
