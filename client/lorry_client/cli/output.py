"""Prints: data to stdout, everything else to stderr. Tables are drawn on a terminal and plain columns elsewhere."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from lorry_client.cli.exit_codes import status_name

# The columns that may be broken into lines on a narrow terminal.
PROSE = {"ADAPTER", "DESCRIPTION", "LABELS", "METRICS"}
SHORT_DIGEST = len("sha256:") + 12


def print_data(text: str) -> None:
    """A line of what the command was asked for."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line for whoever watches."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_json(value: object) -> None:
    """The command's one JSON object."""
    print_data(to_json(value))


def to_json(value: object) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headers; a terminal is spared the columns that are empty, a program gets them all."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        shown = [at for at in range(len(headers)) if not rows or any(row[at] for row in rows)]
        for at in shown:
            table.add_column(headers[at], no_wrap=headers[at] not in PROSE, overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[at]) for at in shown))  # Text: what users wrote is no markup
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in [headers, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_data("  ".join(cells).rstrip())


def print_pairs(lines: Sequence[tuple[str, str]]) -> None:
    """Indented labels with their values, without those that have none."""
    known = [(label, value) for label, value in lines if value]
    width = max((len(label) for label, _ in known), default=0)
    for label, value in known:
        print_data(f"  {label:<{width}}  {value}")


def print_error(error: Exception, as_json: bool) -> None:
    """A failure, on stderr: the message and the reason, and no traceback."""
    message = getattr(error, "message", None) or _message(error)
    status = status_name(error)
    reason = getattr(error, "reason", None) or status
    if as_json:
        metadata = getattr(error, "metadata", {})
        note(
            to_json(
                {
                    "error": {
                        "code": status,
                        "reason": reason,
                        "message": message,
                        "metadata": metadata,
                    }
                }
            )
        )
    else:
        note(f"error: {message} [{reason}]")


def short_digest(digest: str) -> str:
    return digest[:SHORT_DIGEST]


def size(count_bytes: float) -> str:
    """Bytes in the largest unit that leaves a figure above 1: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count_bytes < 1024:
            return f"{count_bytes:.0f} B" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1024
    return f"{count_bytes:.1f} GiB"


def time(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment else ""


def _message(error: Exception) -> str:
    """What an error without a message of its own says; for a bug of ours, the kind is half of it."""
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _plain(value: Any) -> Any:
    """JSON's own types; a number that JSON cannot write becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
