"""`loadtests/registry_scale.py` fills its registries and asks its questions.

Times are not looked at: they belong to the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "loadtests" / "registry_scale.py"


def test_every_question_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    command = [sys.executable, str(SCRIPT), "--database", "sqlite", "--large", "1200"]
    done = subprocess.run(
        [*command, "--rounds", "2", "--json", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert path.exists(), done.stderr
    questions = json.loads(path.read_text(encoding="utf-8"))["sqlite"]
    assert {"get", "first page", "alias move", "resolve a name"} <= questions.keys()
    assert all(small > 0 and large > 0 for small, large in questions.values())
