"""`loadtests/engine.py --quick` runs, fills its table and its JSON file, and all contenders say the same text.

Times are not looked at: they belong to the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "loadtests" / "engine.py"
COMPARISONS = {  # of a quick run, on each base
    ("adapters ÷ PEFT", 8),
    ("base ÷ continuous batching", 1),
    ("base ÷ continuous batching", 8),
    ("adapters ÷ base", 8),
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """What a quick run prints, and what it writes."""
    path = tmp_path_factory.mktemp("loadtest") / "engine.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--seed", "3", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def table(printed: str, first_column: str) -> list[dict[str, str]]:
    """The rows of the printed table that begins with that column."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in printed.splitlines()
        if line.startswith("|")
    ]
    start = next(i for i, cells in enumerate(lines) if first_column in cells)
    rows = []
    for cells in lines[start + 2 :]:
        if len(cells) != len(lines[start]):
            break
        rows.append(dict(zip(lines[start], cells, strict=True)))
    return rows


def test_every_comparison_is_in_the_table(quick: tuple[str, dict]) -> None:
    rows = table(quick[0], "ratio")
    bases = {row["base"] for row in rows}
    assert len(bases) == 2
    assert "lorry-tiny" in bases
    for base in bases:
        assert {(r["what"], int(r["batch"])) for r in rows if r["base"] == base} == COMPARISONS
    for row in rows:
        assert float(row["ratio"]) > 0
        assert float(row["tokens/s"]) > 0
        assert row["met"] == ("–" if row["target"] == "–" else row["met"])


def test_memory_stands_beside_it(quick: tuple[str, dict]) -> None:
    rows = table(quick[0], "MB/adapter")
    assert len(rows) == 2
    for row in rows:
        assert 0.5 < float(row["bytes/parameter (4-bit layers)"].split()[0]) <= 0.6
        assert float(row["MB/adapter"]) > 0


def test_the_file_says_what_ran_where(quick: tuple[str, dict]) -> None:
    _, result = quick
    assert result["seed"] == result["config"]["seed"] == 3
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= result["versions"].keys()
    assert result["hardware"]["cpus"] >= 1
    assert len(result["ratios"]) == 2 * len(COMPARISONS)
    for row in result["ratios"]:
        assert len(row["seconds"]) == len(row["ratios"]) == result["config"]["rounds"]
        assert all(taken > 0 for pair in row["seconds"] for taken in pair)
    assert all(used["bytes_per_adapter"] > 0 for used in result["memory"])


def test_contenders_say_the_same(quick: tuple[str, dict]) -> None:
    """Float32 on every side: another order of sums moves a logit by 1e-6, and no tie here is as near as that."""
    for row in quick[1]["ratios"]:
        if row["same_sequences"] is not None:
            assert row["same_sequences"] == row["sequences"], row["what"]


def test_an_unknown_base_is_refused() -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--base", "no such base"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "lorry-tiny" in done.stderr
