"""Where the rows of each split come from: files, a folder of files as the hub lays them out, or a hub data set."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lorry_trainer.class_names import names_of, with_names
from lorry_trainer.errors import DataError
from lorry_trainer.read import Row, Source, read_source
from lorry_trainer.recipe import Data

HUB = "hub:"
_HELD_OUT = {"validation": ("validation", "valid", "dev"), "test": ("test",)}


def read_sources(data: Data, folder: Path) -> dict[str, Source]:
    """Split -> source, `train` always among them, which a split that is not there is taken from. Raises DataError."""
    main = data.path or data.train or ""
    if main.startswith(HUB) or (folder / main).is_dir():
        found = _data_set(main, data, folder)
    else:
        for key in ("subset", "revision", "train_split"):
            if getattr(data, key):
                raise DataError(f"data.{key} is for a data set, and {main} is a file; leave it out")
        found = {"train": read_source(main, folder)}
    for split in ("validation", "test"):
        if name := getattr(data, split):
            found[split] = read_source(name, folder)
    return found


def _data_set(name: str, data: Data, folder: Path) -> dict[str, Source]:
    loaded = _saved(name, data, folder / name) or _loaded(name, data, folder)
    learnt = data.train_split or "train"
    if learnt not in loaded:
        raise DataError(
            f"{name}: has no split {learnt!r}; name one of its own as data.train_split: {', '.join(loaded)}"
        )
    found = {"train": _source(f"{name} {learnt}", loaded[learnt])}
    for split, names in _HELD_OUT.items():
        theirs = next((n for n in names if n in loaded and n != learnt), None)
        if theirs is not None:
            found[split] = _source(f"{name} {theirs}", loaded[theirs])
    return found


def _saved(name: str, data: Data, path: Path) -> dict[str, Any] | None:
    """The splits of a folder that `save_to_disk` wrote; None where it is another."""
    from datasets import DatasetDict, load_from_disk

    if not any((path / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        return None
    if data.subset or data.revision:
        raise DataError(
            f"{name}: has no subsets and no revisions; leave data.subset, .revision out"
        )
    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: save_to_disk wrote it, and it cannot be read: {error}") from error
    return dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}


def _loaded(name: str, data: Data, folder: Path) -> dict[str, Any]:
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    where = name.removeprefix(HUB) if name.startswith(HUB) else str(folder / name)
    disable_progress_bars()
    try:
        return dict(load_dataset(where, name=data.subset, revision=data.revision))
    except (DatasetsError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{name}: not a data set that can be loaded ({reason}). Check the name, data.subset, data.revision and the "
            "network, or give a file"
        ) from error


def _source(name: str, rows: Any) -> Source:
    """A data set has no bytes of its own: its digest is that of its rows as canonical JSON."""
    names = names_of(rows.features.arrow_schema)
    digest = hashlib.sha256()
    read: list[Row] = []
    for number, values in enumerate(rows, 1):
        digest.update(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode())
        digest.update(b"\n")
        read.append(Row(f"{name}, row {number}", with_names(values, names)))
    if not read:
        raise DataError(f"{name}: no rows")
    return Source(name, "sha256:" + digest.hexdigest(), read)
