"""Whether an adapter was published for the base that it says it was trained on: by name, so no more than a doubt.

A registry takes an adapter whose shapes fit; that the weights are others shows nowhere but in its answers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from lorry.registry.v1 import resources_pb2 as resources
from lorry_client._calls import bases
from lorry_client._steps import Steps, ask
from lorry_client.errors import LorryError
from lorry_client.results.catalogue import Version

_IN_CACHE = re.compile(r"models--(?:[^/\\]*?--)?([^/\\]+)[/\\]snapshots[/\\]")


def doubts(folder: Path, lineage: resources.Lineage | None, version: Version) -> Steps[list[str]]:
    """What to mind of a version that was just published out of a folder.

    Nothing where the lineage says by fingerprint which base it is for: somebody knew.
    """
    named = _trained_on(folder) or ("" if lineage is None else lineage.base_name)
    if not named or (lineage is not None and lineage.base_fingerprint):
        return []
    try:
        base = yield from ask(bases.get_base(version.lineage.base_fingerprint))
    except LorryError:  # the version is there, and what cannot be compared is no reason to fail
        return []
    if _model(named) == _model(base.display_name):
        return []
    return [
        f"the adapter says it was trained on {named!r}, and was published for {base.display_name!r}, whose shapes it "
        "fits: on other weights its answers mean nothing. If that is the same base by another name, push with "
        f"--base {base.fingerprint} and this is not asked; else delete version {version.number}"
    ]


def _trained_on(folder: Path) -> str:
    """As PEFT wrote it; what is wrong with the file is for others to say."""
    try:
        name = json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


def _model(name: str) -> str:
    """`tiny` of `org/Tiny@main`, of `/models/tiny/` and of the folder of `org/Tiny` in a hub's cache."""
    if cached := _IN_CACHE.search(name):
        name = cached[1]
    last = re.split(r"[/\\]", name.partition("@")[0].rstrip("/\\"))[-1]
    return last.casefold()
