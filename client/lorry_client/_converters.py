"""Adapters of kinds that are served only as something else: who is installed to convert them does so first.

A converter is an entry point of the group `lorry.converters`: an object with `KINDS`, the `peft_type`s it takes, and
`convert(folder, out)`, which writes another adapter folder and returns a line about it. Loading it must be cheap.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

GROUP = "lorry.converters"


class Converter(Protocol):
    """What an entry point of the group is."""

    KINDS: Collection[str]

    def convert(self, folder: Path, out: Path) -> str:
        """Writes the folder `out`. Raises what says why it cannot."""
        ...


@contextmanager
def converted(folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """The folder to publish: this one, or what a converter makes of it, which is gone afterwards."""
    converter = _converter_for(_kind(folder))
    if converter is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="lorry-push-") as scratch:
        out = Path(scratch) / folder.resolve().name
        say(converter.convert(folder, out))
        yield out


def _kind(folder: Path) -> str | None:
    """What the configuration says; what is wrong with it is for others to say."""
    try:
        kind = json.loads((folder / "adapter_config.json").read_bytes())["peft_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kind if isinstance(kind, str) else None


def _converter_for(kind: str | None) -> Converter | None:
    if kind in (None, "LORA"):
        return None
    for point in entry_points(group=GROUP):
        try:
            converter: Converter = point.load()
        except Exception:  # not ours to mend; the registry says what it does not take
            continue
        if kind in converter.KINDS:
            return converter
    return None
