"""`loadtests/engine.py` is one command with one table. Its structure is tested here, its figures never are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    """Every contender says the same text, or the ratio compares different work."""
    out = tmp_path / "run.json"
    command = [sys.executable, "loadtests/engine.py", "--quick", "--json", str(out)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    run = json.loads(out.read_text())
    compared = {(row["what"], row["batch"]) for row in run["ratios"]}
    assert compared == {
        ("adapters ÷ PEFT", 8),
        ("adapters ÷ PEFT", 32),
        ("base ÷ continuous batching", 1),
        ("base ÷ continuous batching", 8),
        ("base ÷ continuous batching", 32),
        ("adapters ÷ base", 8),
        ("adapters ÷ base", 32),
    }
    for row in run["ratios"]:
        assert row["ratio"] > 0
        assert f"| {row['what']}" in ran.stdout
        if row["same_sequences"] is not None:
            assert row["same_sequences"] / row["sequences"] > 0.9
    assert run["config"]["rank"] == 16
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= run["versions"].keys()
    assert all(memory["bytes_per_parameter"] <= 0.6 for memory in run["memory"])
