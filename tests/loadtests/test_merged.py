"""`loadtests/merged.py` runs: a few cycles, every answer as before, and the base untouched. Times are not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "loadtests" / "merged.py"


def test_a_few_cycles() -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "0", "--cycles", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert " 0 other than before" in done.stdout
    assert "bit for bit what it was" in done.stdout
