"""Which files hold the weights of a base: those that transformers reads, and no others."""

from __future__ import annotations

import json
from pathlib import Path


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in `folder`, sorted by name.

    One `model.safetensors`, or else the shards that `model.safetensors.index.json` lists. Other
    files in the folder (an adapter, an optimizer, a second format) are not part of the base.
    Raises FileNotFoundError when there are none or a shard is missing.
    """
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise FileNotFoundError(
            f"{folder} has neither model.safetensors nor model.safetensors.index.json"
        )
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in shards:
        if Path(name).name != name or not (folder / name).is_file():
            raise FileNotFoundError(f"{index} lists {name!r}, which is not a file beside it")
    return [folder / name for name in shards]
