"""What a load test leaves behind: a table to read, a JSON file to compare, and on which machine it ran."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence as Items
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "numpy")


def markdown(header: Items[str], rows: Items[Items[str]]) -> str:
    """A table; columns of numbers stand right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1].isdigit() or cell in "–" for cell in column[1:]) for column in columns]

    def line(cells: Items[str]) -> str:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(cells, widths, right, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + (":" if r else "-") for width, r in zip(widths, right, strict=True)]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def write_json(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware() -> dict[str, Any]:
    lines = _lines("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return {
        "machine": platform.machine(),
        "cpu": names[0] if names else platform.processor(),
        "cpus": os.cpu_count(),
        "avx512_bf16": "avx512_bf16" in flags,
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def memory_bytes(kind: str = "RssAnon") -> int:
    """What this process holds in memory: its own (`RssAnon`), with files (`VmRSS`), or at most so far (`VmHWM`).

    0 where the system does not say.
    """
    for line in _lines("/proc/self/status"):
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    return 0


class Neighbours:
    """What else the machine did meanwhile: a ratio is worth less where others took the processor."""

    def __init__(self) -> None:
        self._before = _cpu_ticks()
        self._load_before = os.getloadavg()[0]

    def report(self) -> dict[str, float]:
        spent = [now - then for now, then in zip(_cpu_ticks(), self._before, strict=True)]
        total = sum(spent) or 1
        stolen = spent[7] if len(spent) > 7 else 0
        return {
            "load_average_before": round(self._load_before, 2),
            "load_average_after": round(os.getloadavg()[0], 2),
            "stolen_share": round(stolen / total, 3),
        }


def _cpu_ticks() -> list[int]:
    first = (_lines("/proc/stat") or ["cpu"])[0]
    return [int(ticks) for ticks in first.split()[1:9]]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
