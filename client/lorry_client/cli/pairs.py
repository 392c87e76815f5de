"""`KEY=VALUE` and `KEY-` as commands take them: to set, and to take away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import typer


def changed(before: Mapping[str, str], pairs: Sequence[str]) -> dict[str, str]:
    """What is there once the pairs are set: `KEY=VALUE` sets, `KEY-` takes away."""
    after = dict(before)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if equals and key:
            after[key] = value
        elif pair.endswith("-") and len(pair) > 1:
            after.pop(pair[:-1], None)
        else:
            raise typer.BadParameter(f"{pair!r}: write KEY=VALUE to set, KEY- to take away.")
    return after


def numbers(pairs: Sequence[str]) -> dict[str, float]:
    """`NAME=NUMBER` each."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, written = pair.partition("=")
        try:
            found[name] = float(written)
        except ValueError:
            raise typer.BadParameter(f"{pair!r}: write NAME=NUMBER.") from None
    return found


def shown(pairs: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(pairs.items()))
