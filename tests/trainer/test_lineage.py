"""The commit that made an adapter: the trainer's own checkout, and no other that happens to be around."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lorry_trainer import lineage


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which lineage.py seems to live."""
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "lineage.py"
    file.write_text("")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "lineage.py"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(lineage, "__file__", str(file))
    return tmp_path


def test_the_commit_and_whether_it_was_changed(checkout: Path) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert lineage.code_revision() == head
    (checkout / "lineage.py").write_text("changed")
    assert lineage.code_revision() == f"{head}-dirty"


def test_a_checkout_that_does_not_hold_the_trainer(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation inside somebody's project (.venv) must not claim that project's commit."""
    (checkout / "site-packages").mkdir()
    (checkout / "site-packages" / "lineage.py").write_text("")
    monkeypatch.setattr(lineage, "__file__", str(checkout / "site-packages" / "lineage.py"))
    assert lineage.code_revision() == ""


def test_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lineage.code_revision() == ""
