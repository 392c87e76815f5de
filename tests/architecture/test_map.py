"""docs/architecture.md names every module, and no module that is not there; revisions of the schema name themselves."""

from __future__ import annotations

import re
from pathlib import Path

from tests.architecture.test_imports import FOLDERS, ROOT


def test_the_map_names_every_module_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    sections = re.findall(r"^### .*`(\S+)/`\n\n((?:- .*\n)+)", text, flags=re.MULTILINE)
    named = {
        Path(folder) / module
        for folder, lines in sections
        for module in re.findall(r"^- `(\S+)`: \S", lines, flags=re.MULTILINE)
    }
    there = {
        path.relative_to(ROOT)
        for package, folder in FOLDERS.items()
        if package != "lorry"
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("__") and path.parts[-3:-1] != ("migrations", "versions")
    }
    assert named == there
