"""A few kills, of 200 in `loadtests/registry_crash.py`: nothing half is seen, nothing acknowledged is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.registry.databases import postgres_url

SCRIPT = Path(__file__).parents[2] / "loadtests" / "registry_crash.py"


@pytest.mark.parametrize("stores", ["home", "shared"])
def test_kills_at_random_moments_leave_the_registry_whole(tmp_path: Path, stores: str) -> None:
    if stores == "shared":
        pytest.importorskip("moto")
        with postgres_url():
            pass  # skips where there is none
    path = tmp_path / "crash.json"
    command = [sys.executable, str(SCRIPT), "--pushes", "6", "--stores", stores]
    done = subprocess.run(
        [*command, "--seed", "5", "--json", str(path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(path.read_text(encoding="utf-8"))[stores]
    assert outcome["wrong"] == []
    assert outcome["versions"] >= outcome["acknowledged"] > 0
    assert sum(outcome["killed"].values()) == 6
    assert outcome["killed"].get("nobody", 0) < 6
