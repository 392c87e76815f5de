"""PEFT's rules for which module a config's keys mean, without PEFT, and safe against a stranger's patterns.

Keys of `rank_pattern` and `alpha_pattern` are regular expressions. Python's engine can be kept busy for ever by a
short one, so only a part of the language is taken: repetition of single characters, groups, alternatives, classes;
no repeated groups, look-around or back-references.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from lorry_registry.errors import InvalidArgument

_MAX_CHARACTERS = 512
_MAX_REPETITIONS = 3  # matching takes at most about (length of the path) ** (repetitions + 1) steps
_SYNTAX = re.compile(
    r"""(?P<forbidden> \(\?(?!:) | \\[0-9AZ] | \)[*+{] )
      | (?: \[\^?\]?(?:[^\]\\]|\\.)*\] | \\. | \(\?: | . )
        (?P<repeat> (?:[*+?]|\{[0-9,]*\})[?+]? )?""",
    re.DOTALL | re.VERBOSE,
)


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the safe part of the language. Raises InvalidArgument `PATTERN_REFUSED`."""
    if len(pattern) > _MAX_CHARACTERS:
        raise _refused(pattern, f"it has more than {_MAX_CHARACTERS} characters")
    for token in _SYNTAX.finditer(pattern):
        if token["forbidden"]:
            raise _refused(pattern, f"{token['forbidden']!r} is not taken in patterns here")
    if repetitions(pattern) > _MAX_REPETITIONS:
        raise _refused(pattern, f"it repeats more than {_MAX_REPETITIONS} times")
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise _refused(pattern, str(error)) from None


def repetitions(pattern: str) -> int:
    """How many parts of the pattern may match more or fewer characters."""
    return sum(token["repeat"] is not None for token in _SYNTAX.finditer(pattern))


def pattern_value(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first key, in the file's order, that means `module`; else `default`.

    As PEFT's `get_pattern_key`: a key means a module when it matches the whole of its path or an ending after a
    dot.
    """
    for key, value in patterns.items():
        # Many keys are whole paths, for which the engine is not needed.
        if key == module or compile_pattern(key).match(module):
            return value
    return default


def names_module(names: Iterable[str], module: str) -> bool:
    """Whether one of `names` is the module's path or an ending of it after a dot."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _refused(pattern: str, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"the pattern {pattern[:120]!r} in adapter_config.json is refused: {rule}. "
        "Write the modules' paths or endings of them",
        reason="PATTERN_REFUSED",
        pattern=pattern[:120],
    )
