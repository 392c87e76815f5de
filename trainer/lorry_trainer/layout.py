"""Which split each file of a folder belongs to, told by its name as the hub does: `train.jsonl`, `dev/part-1.csv`,
`data/train-00000-of-00002.parquet`. Where no name tells, all files are to be learnt."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from lorry_trainer.errors import DataError
from lorry_trainer.read import kind_of

_NAMES = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_BEFORE, _AFTER = r"(?:^|[-._ 0-9])", r"(?:$|[-._ 0-9])"
_SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*\..*")  # any name of a split
# Beside the rows: what models, `datasets` and its savers write.
_NO_ROWS = (
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)


def files_by_split(folder: Path) -> dict[str, list[str]]:
    """Split -> its files, relative to the folder and in order. Empty where it takes `datasets` to read them: they are
    of other kinds, or the README says what is what. Raises DataError where a name tells two splits."""
    if _is_described(folder / "README.md"):
        return {}
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = sorted(file for file in files if _holds_rows(file))
    told = {file: match[1] for file in files if (match := _SHARD.fullmatch(file))}
    told = told or {file: split for file in files if (split := _split_of(folder.name, file))}
    told = told or dict.fromkeys(files, "train")
    splits: dict[str, list[str]] = {}
    for file, split in told.items():
        splits.setdefault(split, []).append(file)
    for split, own in splits.items():
        kinds = {kind_of(file): file for file in own}
        if len(kinds) > 1:
            raise DataError(
                f"{folder.name}: {split} has files of several kinds ({', '.join(kinds.values())}), which may be the "
                "same rows; keep one kind, or name a file as data.train, data.validation, data.test"
            )
    return splits


def _is_described(readme: Path) -> bool:
    """Whether it begins with YAML that says which files or columns there are."""
    if not readme.is_file():
        return False
    head = re.match(r"---\s*\n(.*?)\n---", readme.read_text("utf-8", "replace"), re.DOTALL)
    try:
        said = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return True  # `datasets` says what is wrong with it
    return isinstance(said, dict) and bool(said.keys() & {"configs", "dataset_info"})


def _holds_rows(file: str) -> bool:
    *folders, name = file.split("/")
    hidden = name.startswith(".") or any(part.startswith((".", "__")) for part in folders)
    return not hidden and name not in _NO_ROWS and kind_of(file) is not None


def _split_of(folder: str, file: str) -> str | None:
    """The one that a folder on the way is called after, or else the file."""
    *folders, name = file.split("/")
    for parts in (folders, [name]):
        found = [
            split
            for split, names in _NAMES.items()
            if any(re.search(f"{_BEFORE}(?:{names}){_AFTER}", part) for part in parts)
        ]
        if len(found) > 1:
            raise DataError(f"{folder}: {file} is called {' and '.join(found)}; rename it to one")
        if found:
            return found[0]
    return None
