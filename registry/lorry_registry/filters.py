"""Filters of lists: `base = "sha256:…" AND rank <= 16 AND labels.team = "x"`, read into a tree of what must hold.

The grammar is AIP-160's, without its fuzzy search by bare words:

    expression = factor { "AND" factor }
    factor     = term { "OR" term }                        OR binds tighter than AND, as AIP-160 has it
    term       = ( "NOT" | "-" ) term | "(" expression ")" | restriction
    restriction = field [ "." key ] operator value
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
    value      = a quoted text ("…" or '…', with \\ before what is meant literally) or a bare word

`:` asks whether a text contains another, whether `labels` has a key (`labels:team`), and whether a key has any value
(`labels.team:*`). With `=` and `!=` a text may begin or end with `*`, which stands for anything. What is absent equals
nothing and differs from everything. The tree knows no database; values never become part of any other language.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from lorry_registry.digests import is_digest
from lorry_registry.errors import InvalidArgument

MAX_CHARACTERS = 4096
MAX_RESTRICTIONS = 64
MAX_DEPTH = 16

OPERATORS = ("<=", ">=", "!=", "=", "<", ">", ":")
_TOKEN = re.compile(
    r"""\s*(?:(?P<symbol><=|>=|!=|[=<>:()])
          |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
          |(?P<minus>-(?=[\s(A-Za-z]))
          |(?P<word>[\w.*/@+-]+(?::[\w.*/@+-]+)*)
          |(?P<end>$))""",
    re.DOTALL | re.VERBOSE,
)
_FIELD = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:\.(?P<key>.+))?", re.DOTALL)


class Kind(Enum):
    """What a field's values are."""

    TEXT = "a text"
    DIGEST = "a digest (sha256:… in full)"
    NUMBER = "a number"
    TIME = "a time (2026-01-31T00:00:00Z)"
    CHOICE = "one of its names"
    TEXTS = "a text under each key"  # labels.team
    NUMBERS = "a number under each key"  # metrics.exact


@dataclass(frozen=True, slots=True)
class Field:
    """A field that can be filtered by."""

    kind: Kind
    choices: tuple[str, ...] = ()


Value = str | float | datetime


@dataclass(frozen=True, slots=True)
class Compare:
    """`field.key operator value`; for `:` on labels without a key, the value is the key."""

    field: str
    operator: str
    value: Value
    key: str = ""


@dataclass(frozen=True, slots=True)
class Not:
    term: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    terms: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    terms: tuple["Expression", ...]


Expression = Compare | Not | And | Or


def parse_filter(text: str, fields: Mapping[str, Field]) -> Expression | None:
    """Reads a filter; None for an empty one, which asks for nothing.

    Raises InvalidArgument `FILTER_INVALID`, with the position where it cannot be read.
    """
    if not text.strip():
        return None
    if len(text) > MAX_CHARACTERS:
        raise _bad(text, MAX_CHARACTERS, f"it has more than {MAX_CHARACTERS} characters")
    return _Parser(text, fields).whole()


def matches(expression: Expression | None, value_of: Callable[[str], Value]) -> bool:
    """Whether an expression holds of something that is at hand; for fields without keys."""
    match expression:
        case None:
            return True
        case And(terms):
            return all(matches(term, value_of) for term in terms)
        case Or(terms):
            return any(matches(term, value_of) for term in terms)
        case Not(term):
            return not matches(term, value_of)
        case Compare(field, operator, value):
            return _holds(value_of(field), operator, value)


def wildcard(value: str) -> tuple[bool, str, bool]:
    """Whether anything may come before, the text that must be there, and whether anything may come after it."""
    before, after = value.startswith("*"), value.endswith("*") and len(value) > 1
    return before, value[before : len(value) - after], after


def _holds(actual: Value, operator: str, value: Value) -> bool:
    if isinstance(actual, str) and isinstance(value, str):
        if operator == ":":
            return value in actual
        if operator in ("=", "!="):
            return _like(actual, value) is (operator == "=")
    less, equal = actual < value, actual == value  # type: ignore[operator]
    return {
        "=": equal,
        "!=": not equal,
        "<": less,
        "<=": less or equal,
        ">": not less and not equal,
        ">=": not less,
    }[operator]


def _like(actual: str, value: str) -> bool:
    before, text, after = wildcard(value)
    if before and after:
        return text in actual
    if before:
        return actual.endswith(text)
    return actual.startswith(text) if after else actual == text


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # symbol, text, minus, word or end
    text: str
    position: int


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        self._text = text
        self._fields = fields
        self._num_restrictions = 0
        self._next = self._token_at(0)

    def whole(self) -> Expression:
        expression = self._expression(0)
        if self._next.kind != "end":
            raise self._bad("AND or OR is expected")
        return expression

    def _expression(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise self._bad(f"it is nested more than {MAX_DEPTH} deep")
        terms = [self._factor(depth)]
        while self._take_word("AND"):
            terms.append(self._factor(depth))
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def _factor(self, depth: int) -> Expression:
        terms = [self._term(depth)]
        while self._take_word("OR"):
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def _term(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise self._bad(f"it is nested more than {MAX_DEPTH} deep")
        if self._take_word("NOT") or self._take("minus", "-"):
            return Not(self._term(depth + 1))
        if self._take("symbol", "("):
            inside = self._expression(depth + 1)
            if not self._take("symbol", ")"):
                raise self._bad("')' is expected")
            return inside
        return self._restriction()

    def _restriction(self) -> Compare:
        self._num_restrictions += 1
        if self._num_restrictions > MAX_RESTRICTIONS:
            raise self._bad(f"it has more than {MAX_RESTRICTIONS} restrictions")
        # A bare word may hold a ':', which behind a field is an operator.
        start = self._next
        written, colon, _ = start.text.partition(":") if start.kind == "word" else ("", "", "")
        named = _FIELD.fullmatch(written)
        if named is None or written in ("AND", "OR"):
            raise self._bad('a restriction like name = "x*" is expected')
        field = self._fields.get(named["name"])
        key = named["key"] or ""
        keyed = field is not None and field.kind in (Kind.TEXTS, Kind.NUMBERS)
        if field is None or (key and not keyed):
            raise self._bad(
                f"{written[:60]!r} cannot be filtered by; use {', '.join(map(self._shown, self._fields))}"
            )
        if colon:
            operator = ":"
            self._next = self._token_at(start.position + len(written) + 1)
        else:
            self._next = self._token_at(start.position + len(written))
            operator = self._next.text if self._next.kind == "symbol" else ""
            if operator not in OPERATORS:
                raise self._bad(f"one of {' '.join(OPERATORS)} is expected")
            self._next = self._token_at(self._next.position + len(operator))
        if keyed and not key and operator != ":":
            raise self._bad(f"a key is expected: {named['name']}.KEY", at=start.position)
        return Compare(named["name"], operator, self._value(field, key, operator), key)

    def _value(self, field: Field, key: str, operator: str) -> Value:
        token = self._next
        if token.kind not in ("word", "text"):
            raise self._bad("a value is expected")
        text = token.text
        if token.kind == "text":
            text = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        value = self._read(field, key, operator, text)
        self._next = self._token_at(token.position + len(token.text))
        return value

    def _read(self, field: Field, key: str, operator: str, text: str) -> Value:
        kind = field.kind
        if kind in (Kind.TEXTS, Kind.NUMBERS):
            if not key or (operator == ":" and text == "*"):
                return text  # whether there is such a key
            kind = Kind.TEXT if kind is Kind.TEXTS else Kind.NUMBER
        if operator == ":" and kind is not Kind.TEXT:
            raise self._bad("':' asks what a text contains, or which keys there are")
        if "\0" in text:
            raise self._bad("it holds a NUL character")
        if kind is Kind.TEXT:
            if operator in ("=", "!=") and "*" in wildcard(text)[1]:
                raise self._bad("a '*' stands at the beginning or the end of a text")
            return text
        if kind in (Kind.DIGEST, Kind.CHOICE) and operator not in ("=", "!="):
            raise self._bad("= or != is expected")
        if kind is Kind.DIGEST and is_digest(text):
            return text
        if kind is Kind.CHOICE and text.upper() in field.choices:
            return text.upper()
        read = _number(text) if kind is Kind.NUMBER else _time(text) if kind is Kind.TIME else None
        if read is None:
            expected = f"one of {', '.join(field.choices)}" if field.choices else kind.value
            raise self._bad(f"{expected} is expected, and it is {text[:60]!r}")
        return read

    def _take_word(self, word: str) -> bool:
        return self._take("word", word)

    def _take(self, kind: str, text: str) -> bool:
        if (self._next.kind, self._next.text) != (kind, text):
            return False
        self._next = self._token_at(self._next.position + len(text))
        return True

    def _token_at(self, position: int) -> _Token:
        found = _TOKEN.match(self._text, position)
        if found is None:
            start = position + len(self._text[position:]) - len(self._text[position:].lstrip())
            raise _bad(self._text, start, "it cannot go on like that")
        kind = found.lastgroup
        assert kind is not None
        return _Token(kind, found[kind], found.start(kind))

    def _shown(self, name: str) -> str:
        keyed = self._fields[name].kind in (Kind.TEXTS, Kind.NUMBERS)
        return f"{name}.KEY" if keyed else name

    def _bad(self, rule: str, *, at: int | None = None) -> InvalidArgument:
        return _bad(self._text, self._next.position if at is None else at, rule)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None  # neither NaN nor infinite


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _bad(text: str, position: int, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"the filter {text[:120]!r} cannot be read at character {position}: {rule}",
        reason="FILTER_INVALID",
        filter=text[:120],
        position=position,
    )
