"""One adapter's folder on this machine's disk: its files, and beside them what they are.

    adapter_config.json, adapter_model.safetensors, labels.json and model.sig where it has them, lorry.json

`lorry.json` has the digests and sizes of the files, so that the folder can be judged without the registry.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorry_registry.checks import LABELS_FILE
from lorry_registry.digests import digest_file
from lorry_registry.entities import File
from lorry_registry.errors import DataLoss, LorryError
from lorry_registry.references import parse_reference
from lorry_registry.signatures import SIGNATURE_FILE
from lorry_server.registries import Published

NEEDED = ("adapter_config.json", "adapter_model.safetensors")
_WANTED = (*NEEDED, LABELS_FILE, SIGNATURE_FILE)
_FACTS = "lorry.json"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a folder's version without the registry."""

    adapter: str  # `namespace/name`; empty once the registry has said that there is none
    number: int
    base_fingerprint: str
    base_name: str
    max_rank: int
    files: tuple[File, ...]

    @classmethod
    def of(cls, published: Published) -> Facts:
        wanted = tuple(file for file in published.files if file.path in _WANTED)
        return cls(
            str(published.key), published.number, published.base_fingerprint, published.base_name,
            published.max_rank, wanted,
        )  # fmt: skip

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def published(self, digest: str) -> Published:
        """What the registry once said. Raises LorryError where the name is gone."""
        return Published(
            parse_reference(self.adapter).key, self.number, digest, self.base_fingerprint,
            self.base_name, self.max_rank, self.files,
        )  # fmt: skip


def write_facts(folder: Path, facts: Facts) -> None:
    """Whole or not at all."""
    content: dict[str, Any] = {name: getattr(facts, name) for name in Facts.__slots__}
    content["files"] = [[file.path, file.digest, file.size_bytes] for file in facts.files]
    fresh = folder / f".{_FACTS}"
    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
    fsync(fresh)
    fresh.rename(folder / _FACTS)


def read_facts(folder: Path) -> Facts | None:
    """None where the folder is not there, or is none of ours."""
    try:
        content = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        files = tuple(
            File(str(path), str(digest), int(size)) for path, digest, size in content["files"]
        )
        return Facts(
            str(content["adapter"]), int(content["number"]), str(content["base_fingerprint"]),
            str(content["base_name"]), int(content["max_rank"]), files,
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError):
        return None


def without_name(facts: Facts) -> Facts:
    return replace(facts, adapter="")


def is_whole(folder: Path, facts: Facts) -> bool:
    """Whether every file is there in its full size: what can be told at once."""
    try:
        return all((folder / file.path).stat().st_size == file.size_bytes for file in facts.files)
    except OSError:
        return False


def check_digest(path: Path, file: File) -> None:
    """Raises DataLoss where the bytes at `path` are not the file's."""
    actual = digest_file(path)
    if actual != file.digest:
        raise DataLoss(
            f"{file.path} has the digest {actual}, not {file.digest}: the bytes are damaged where they were read "
            "from; publish the adapter again, or mend that disk.",
            reason="DIGEST_MISMATCH",
            path=file.path,
            digest=file.digest,
            actual=actual,
        )


def is_intact(folder: Path, facts: Facts) -> bool:
    """Whether every byte is as it was published. Reads them all."""
    try:
        for file in facts.files:
            check_digest(folder / file.path, file)
    except (OSError, LorryError):
        return False
    return True


def own_bytes(folder: Path, facts: Facts) -> int:
    """What removing the folder would free: a file that the registry on this disk links as well costs nothing."""
    size = 0
    for file in facts.files:
        try:
            status = (folder / file.path).stat()
        except OSError:
            continue
        size += status.st_size if status.st_nlink == 1 else 0
    return size


def fsync(path: Path) -> None:
    """Returns once a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
