"""Where the rows of each split come from: files, a folder of files as the hub lays them out, or a hub data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lorry_trainer.arrow_rows import json_rows
from lorry_trainer.errors import DataError
from lorry_trainer.layout import files_by_split
from lorry_trainer.read import Row, Source, joined, read_source
from lorry_trainer.recipe import Data

Splits = dict[str, Callable[[], Source]]  # those that are not asked for are not read

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
    if data.revision and not name.startswith(HUB):
        raise DataError(
            f"data.revision is for a data set on the hub, and {name} is a folder; leave it out"
        )
    splits = _saved(name, data, folder) or _files(name, data, folder) or _loaded(name, data, folder)
    learnt = data.train_split or "train"
    if learnt not in splits:
        raise DataError(
            f"{name}: has no split {learnt!r}; name one of its own as data.train_split: {', '.join(splits)}"
        )
    found = {"train": splits[learnt]()}
    for split, names in _HELD_OUT.items():
        theirs = next((n for n in names if n in splits and n != learnt), None)
        if theirs is not None:
            found[split] = splits[theirs]()
    return found


def _files(name: str, data: Data, folder: Path) -> Splits:
    """The splits of a folder whose files are read as any file is; none where it takes `datasets` to read it, which
    guesses types: 007 would be 7, and NA nothing."""
    if name.startswith(HUB) or not (splits := files_by_split(folder / name)):
        return {}
    if data.subset:
        raise DataError(f"{name}: has no subsets; leave data.subset out")

    def read(split: str, files: list[str]) -> Source:
        sources = [read_source(f"{name.rstrip('/')}/{file}", folder) for file in files]
        return joined(f"{name} {split}", sources)

    return {split: partial(read, split, files) for split, files in splits.items()}


def _saved(name: str, data: Data, folder: Path) -> Splits:
    """The splits of a folder that `save_to_disk` wrote; none where it is another."""
    from datasets import DatasetDict, load_from_disk

    path = folder / name
    if not any((path / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        return {}
    if data.subset:
        raise DataError(f"{name}: has no subsets; leave data.subset out")
    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: save_to_disk wrote it, and it cannot be read: {error}") from error
    return _by_split(name, loaded if isinstance(loaded, DatasetDict) else {"train": loaded})


def _loaded(name: str, data: Data, folder: Path) -> Splits:
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    where = name.removeprefix(HUB) if name.startswith(HUB) else str(folder / name)
    disable_progress_bars()
    try:
        return _by_split(name, load_dataset(where, name=data.subset, revision=data.revision))
    except (DatasetsError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{name}: not a data set that can be loaded ({reason}). Check the name, data.subset, data.revision and the "
            "network, or give a file"
        ) from error


def _by_split(name: str, loaded: dict[str, Any]) -> Splits:
    return {split: partial(_source, f"{name} {split}", rows) for split, rows in loaded.items()}


def _source(name: str, rows: Any) -> Source:
    """A data set has no bytes of its own: its digest is that of its rows as canonical JSON."""
    digest = hashlib.sha256()
    kept: list[dict[str, Any]] = list(rows)
    for values in kept:
        digest.update(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode())
        digest.update(b"\n")
    if not kept:
        raise DataError(f"{name}: no rows")
    read = json_rows(rows.features.arrow_schema, kept)
    return Source(
        name,
        "sha256:" + digest.hexdigest(),
        [Row(f"{name}, row {number}", values) for number, values in enumerate(read, 1)],
    )
