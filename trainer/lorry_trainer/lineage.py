"""Where an adapter comes from, as the registry keeps it: the JSON form of `lorry.registry.v1.Lineage`."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorry_trainer.data import Dataset


def lineage(
    *,
    base_fingerprint: str,
    base_name: str,
    recipe: str,
    datasets: list[Dataset],
    metrics: dict[str, float],
) -> dict[str, Any]:
    made = {
        "baseFingerprint": base_fingerprint,
        "baseName": base_name,
        "recipe": recipe,
        "datasets": [
            {"name": d.name, "digest": d.digest, "split": d.split, "rowCount": str(d.row_count)}
            for d in datasets
        ],
        "metrics": metrics,
        "producer": producer(),
    }
    if revision := code_revision():
        made["codeRevision"] = revision
    return made


def producer() -> str:
    libraries = ", ".join(
        f"{name} {_version(name)}" for name in ("trl", "peft", "transformers", "torch")
    )
    return f"lorry-trainer {_version('lorry')} ({libraries})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def code_revision() -> str:
    """The commit of the checkout that this file belongs to, `-dirty` with changes; empty outside of one."""
    here = Path(__file__)
    try:
        tracked = _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
        return tracked and _git(
            "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", folder=here.parent
        )
    except OSError:  # no git
        return ""


def _git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def public_name(base: str) -> str:
    """A base's name for other machines: a path becomes the folder's name."""
    is_path = base.startswith((".", "/", "~")) or Path(base).is_dir()
    return Path(base).expanduser().resolve().name if is_path else base
