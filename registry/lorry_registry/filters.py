"""The filter of ListAdapters: `name = "intent*" AND labels.team = "search" AND base = "sha256:…"`.

Terms are joined by `AND` (upper case, as AIP-160 writes it); the only operator is `=`; a value is a quoted string
(`\\"` and `\\\\` inside it) or a bare word. A trailing `*` on `name` matches any ending. The grammar is a part of
AIP-160's, so that more of it can be taken in without breaking what works.
"""

import re
from dataclasses import dataclass

from lorry_registry.digests import is_digest
from lorry_registry.errors import InvalidArgument

_MAX_TERMS = 16
_MAX_CHARACTERS = 4096
_TERM = re.compile(
    r"""\s*(?P<field>[A-Za-z][\w./-]*)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[\w.:*/-]+))""",
    re.DOTALL,
)
_AND = re.compile(r"\s+AND(?=\s)")


@dataclass(frozen=True, slots=True)
class AdapterFilter:
    """What the terms ask for; every one of them must hold. The default asks for nothing."""

    names: tuple[str, ...] = ()  # ids exactly
    name_prefixes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    bases: tuple[str, ...] = ()  # some version is for this fingerprint


def parse_filter(text: str) -> AdapterFilter:
    """Reads a filter; an empty one asks for nothing. Raises InvalidArgument `FILTER_INVALID`."""
    if not text.strip():
        return AdapterFilter()
    if len(text) > _MAX_CHARACTERS:
        raise _bad(text, f"it has more than {_MAX_CHARACTERS} characters")
    names: list[str] = []
    prefixes: list[str] = []
    labels: list[tuple[str, str]] = []
    bases: list[str] = []
    for field, value in _terms(text):
        if field == "name":
            if value.endswith("*"):
                prefixes.append(value[:-1])
            else:
                names.append(value)
            if "*" in value[:-1]:
                raise _bad(text, f"in name = {value!r} the '*' must be the last character")
        elif field == "base":
            if not is_digest(value):
                raise _bad(text, f"base = {value!r} is no fingerprint (sha256:… in full)")
            bases.append(value)
        elif field.startswith("labels.") and len(field) > len("labels."):
            labels.append((field.removeprefix("labels."), value))
        else:
            raise _bad(text, f"{field!r} cannot be filtered by; use name, labels.KEY or base")
    return AdapterFilter(tuple(names), tuple(prefixes), tuple(labels), tuple(bases))


def _terms(text: str) -> list[tuple[str, str]]:
    terms: list[tuple[str, str]] = []
    position = 0
    while True:
        term = _TERM.match(text, position)
        if term is None:
            raise _bad(text, f'at character {position} a term like name = "x*" is expected')
        quoted = term["quoted"]
        value = term["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        terms.append((term["field"], value))
        if len(terms) > _MAX_TERMS:
            raise _bad(text, f"it has more than {_MAX_TERMS} terms")
        position = term.end()
        if not text[position:].strip():
            return terms
        joint = _AND.match(text, position)
        if joint is None:
            raise _bad(text, f"at character {position} AND is expected")
        position = joint.end()


def _bad(text: str, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"the filter {text[:120]!r} cannot be read: {rule}",
        reason="FILTER_INVALID",
        filter=text[:120],
    )
