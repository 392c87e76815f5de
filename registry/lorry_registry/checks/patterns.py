"""PEFT's rules for which module a config's keys mean, without PEFT, and safe against a stranger's patterns.

Keys of `rank_pattern` and `alpha_pattern` are regular expressions. Nearly all that people and tools write are plain
paths, whose dots happen to stand for any character: those are looked up in tables. For the rest, Python's engine can
be kept busy for ever by a short pattern, so only a part of the language is taken (repetition of single characters,
groups, alternatives, classes; no repeated groups, look-around or back-references), each is compiled once, and the
work of holding them all against a file's modules is estimated before any is matched.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from lorry_registry.errors import InvalidArgument

MAX_STEPS = 30_000_000
"""Of the engine, at some 10 ns each, for all modules of an adapter: a wrong estimate is on the safe side."""

_MAX_CHARACTERS = 512
_MAX_REPETITIONS = 3
_MAX_BRANCHES = 4096
_STEPS_OF_A_LOOKUP = 100
_SYNTAX = re.compile(
    r"""(?P<forbidden> \(\?(?!:) | \\[0-9AZ] | \)[*+{] )
      | (?P<token> \[\^?\]?(?:[^\]\\]|\\.)*\] | \\. | \(\?: | . )
        (?P<repeat> (?:[*+?]|\{[0-9,]*\})[?+]? )?""",
    re.DOTALL | re.VERBOSE,
)
_PLAIN = re.compile(r"\^?(?:[A-Za-z0-9_-]|\\?\.)+")
_FREE_DOT = re.compile(r"(?<!\\)\.")


@dataclass(frozen=True, slots=True)
class _Shape:
    """Plain keys whose free dots stand in the same places: the pieces between those, joined, give their position."""

    anchored: bool  # they begin with ^: the whole path is meant
    piece_lengths: tuple[int, ...]
    positions: dict[str, int] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return sum(self.piece_lengths) + len(self.piece_lengths) - 1

    def find(self, module: str, start: int) -> int | None:
        """The position of the key that means the ending of `module` from `start` on."""
        pieces = []
        for length in self.piece_lengths:
            pieces.append(module[start : start + length])
            start += length + 1
        return self.positions.get(".".join(pieces))


class Patterns:
    """The keys of a `rank_pattern` or an `alpha_pattern` with their values, compiled.

    Raises InvalidArgument `PATTERN_REFUSED` for a key outside the safe part of the language.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = tuple(values.values())
        self._shapes: dict[int, list[_Shape]] = {}  # by the length of the text that they mean
        self._expressions: list[tuple[int, re.Pattern[str]]] = []
        self._branches = [0] * (_MAX_REPETITIONS + 1)  # of all expressions, by their repetitions
        shapes: dict[tuple[bool, tuple[int, ...]], _Shape] = {}
        for position, key in enumerate(values):
            if not is_plain(key):
                self._expressions.append((position, compile_pattern(key)))
                self._branches[repetitions(key)] += branches(key)
                continue
            pieces = [piece.replace("\\.", ".") for piece in _FREE_DOT.split(key.removeprefix("^"))]
            kind = key.startswith("^"), tuple(map(len, pieces))
            if kind not in shapes:
                shapes[kind] = _Shape(*kind)
                self._shapes.setdefault(shapes[kind].length, []).append(shapes[kind])
            shapes[kind].positions.setdefault(".".join(pieces), position)

    def __len__(self) -> int:
        return len(self._values)

    def value(self, module: str, default: float) -> float:
        """The value of the first key, in the file's order, that means `module`; else `default`.

        As PEFT's `get_pattern_key`: a key means a module when it matches the whole of its path or an ending after a
        dot.
        """
        first = len(self._values)
        for start in _endings(module):
            for shape in self._shapes.get(len(module) - start, ()):
                if not (shape.anchored and start):
                    position = shape.find(module, start)
                    first = first if position is None else min(first, position)
        for position, expression in self._expressions:
            if position > first:
                break
            if expression.match(module):
                return self._values[position]
        return default if first == len(self._values) else self._values[first]

    def check_work(self, modules: Collection[str]) -> None:
        """Raises InvalidArgument `PATTERN_REFUSED` where finding the values of all `modules` would take too long."""
        steps = 0.0
        for module in modules:
            endings = list(_endings(module))
            lookups = sum(len(self._shapes.get(len(module) - start, ())) for start in endings)
            # Of what repeats, each takes as many characters as it likes, one after the other.
            ways = sum(
                number * len(module) ** repeated / math.factorial(repeated)
                for repeated, number in enumerate(self._branches)
            )
            steps += len(endings) * ways + _STEPS_OF_A_LOOKUP * lookups
            if steps > MAX_STEPS:
                raise InvalidArgument(
                    f"adapter_config.json: holding the {len(self)} patterns of a rank_pattern or alpha_pattern "
                    f"against {len(modules)} modules would take too long: write the modules' paths or "
                    "endings of them",
                    reason="PATTERN_REFUSED",
                    patterns=len(self),
                    modules=len(modules),
                )


def is_plain(key: str) -> bool:
    """Whether a key is a path or an ending of one, for which the engine is not needed."""
    return len(key) <= _MAX_CHARACTERS and _PLAIN.fullmatch(key) is not None


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the safe part of the language. Raises InvalidArgument `PATTERN_REFUSED`."""
    if len(pattern) > _MAX_CHARACTERS:
        raise _refused(pattern, f"it has more than {_MAX_CHARACTERS} characters")
    for token in _SYNTAX.finditer(pattern):
        if token["forbidden"]:
            raise _refused(pattern, f"{token['forbidden']!r} is not taken in patterns here")
    if repetitions(pattern) > _MAX_REPETITIONS:
        raise _refused(pattern, f"it repeats more than {_MAX_REPETITIONS} times")
    if branches(pattern) > _MAX_BRANCHES:
        raise _refused(pattern, f"its alternatives combine in more than {_MAX_BRANCHES} ways")
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise _refused(pattern, str(error)) from None


def repetitions(pattern: str) -> int:
    """How many parts of the pattern may match more or fewer characters."""
    return sum(token["repeat"] is not None for token in _SYNTAX.finditer(pattern))


def branches(pattern: str) -> int:
    """In how many ways the pattern's alternatives combine: `(a|b)(c|d|e)` in 6."""
    ways, open_groups = 1, [1]
    for token in _SYNTAX.finditer(pattern):
        if token["token"] in ("(", "(?:"):
            open_groups.append(1)
        elif token["token"] == "|":
            open_groups[-1] += 1
        elif token["token"] == ")" and len(open_groups) > 1:
            ways *= open_groups.pop()
    return ways * math.prod(open_groups)


def names_module(names: AbstractSet[str], module: str) -> bool:
    """Whether one of `names` is the module's path or an ending of it after a dot."""
    return any(module[start:] in names for start in _endings(module))


def _endings(module: str) -> Iterator[int]:
    """Where the path begins, and where it goes on after each dot."""
    yield 0
    start = 0
    while start := module.find(".", start) + 1:
        yield start


def _refused(pattern: str, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"the pattern {pattern[:120]!r} in adapter_config.json is refused: {rule}. "
        "Write the modules' paths or endings of them",
        reason="PATTERN_REFUSED",
        pattern=pattern[:120],
    )
