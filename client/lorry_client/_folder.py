"""Reads an adapter folder: which of its files make a version, with their digests. Asks no server."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format

from lorry.registry.v1 import resources_pb2 as resources
from lorry_client.errors import InvalidArgument, NotFound, from_os
from lorry_client.results.catalogue import File, Lineage

if TYPE_CHECKING:
    from lorry_client._push import AnyLineage

REQUIRED_FILES = ("adapter_config.json", "adapter_model.safetensors")
LINEAGE_FILE = "lineage.json"

# What a version may hold. Everything else stays behind: optimizer states, pickles, checkpoints.
MEDIA_TYPES = {
    ".safetensors": "application/octet-stream",
    ".json": "application/json",
    ".md": "text/markdown",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".png": "image/png",
    ".txt": "text/plain",
    ".jinja": "text/plain",
    ".sig": "application/vnd.dev.sigstore.bundle.v0.3+json",
}
# The trainer's page of what `metrics.json` and `loss.png` say: left behind without a word.
PAGES = ("report.html",)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to publish, and where its bytes are."""

    source: Path
    file: File


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """What a folder offers to publish; `skipped` maps the names of the other files to the reason."""

    files: tuple[LocalFile, ...]
    lineage: resources.Lineage | None
    skipped: dict[str, str]


def read_folder(folder: Path) -> AdapterFolder:
    """Reads an adapter folder and digests its files. Raises where it holds no adapter that may be published."""
    if not folder.is_dir():
        raise NotFound(
            f"There is no folder {str(folder)!r}.",
            reason="FOLDER_NOT_FOUND",
            metadata={"folder": str(folder)},
        )
    chosen: list[Path] = []
    skipped: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name in PAGES:
            continue
        if why_not := _why_not(path, folder):
            skipped[path.name] = why_not
        elif path.name != LINEAGE_FILE:
            chosen.append(path)
    _check_complete(folder, {path.name for path in chosen})
    return AdapterFolder(
        tuple(LocalFile(path, _digested(path)) for path in chosen),
        _lineage_of(folder / LINEAGE_FILE),
        skipped,
    )


def lineage_message(lineage: AnyLineage) -> resources.Lineage:
    """A lineage in any of its forms as the contract's message."""
    if isinstance(lineage, resources.Lineage):
        return lineage
    if isinstance(lineage, Lineage):
        return resources.Lineage(
            base_fingerprint=lineage.base_fingerprint,
            base_name=lineage.base_name,
            recipe=lineage.recipe,
            datasets=[
                resources.Dataset(
                    name=one.name, digest=one.digest, split=one.split, row_count=one.row_count
                )
                for one in lineage.datasets
            ],
            metrics=lineage.metrics,
            parents=lineage.parents,
            producer=lineage.producer,
            code_revision=lineage.code_revision,
        )
    try:
        return json_format.ParseDict(dict(lineage), resources.Lineage())
    except json_format.ParseError as error:
        raise _no_lineage("This", error) from error


def _why_not(path: Path, folder: Path) -> str:
    """Why a file is no part of the version; empty where it is one."""
    if path.name.startswith("."):
        return "it is hidden"
    if path.suffix not in MEDIA_TYPES:
        return f"only {', '.join('*' + suffix for suffix in MEDIA_TYPES)} are published"
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidArgument(
            f"{path.name} is a link that leads out of the folder; put the file itself there.",
            reason="LINK_OUT_OF_FOLDER",
            metadata={"file": path.name},
        )
    return "" if path.is_file() else "it is no regular file"


def _check_complete(folder: Path, names: set[str]) -> None:
    missing = [name for name in REQUIRED_FILES if name not in names]
    if not missing:
        return
    if "adapter_model.safetensors" in missing and (folder / "adapter_model.bin").exists():
        raise InvalidArgument(
            "adapter_model.bin is a pickle, which can run code when it is loaded, and is not accepted. Save the "
            "adapter again as safetensors: load it with PEFT, then save_pretrained(folder, safe_serialization=True).",
            reason="PICKLED_WEIGHTS",
            metadata={"file": "adapter_model.bin"},
        )
    raise InvalidArgument(
        f"{str(folder)!r} holds no {' and no '.join(missing)}; a PEFT adapter folder has both "
        f"{' and '.join(REQUIRED_FILES)}.",
        reason="MISSING_FILE",
        metadata={"files": ",".join(missing)},
    )


def _digested(path: Path) -> File:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return File(path.name, f"sha256:{digest}", stream.tell(), MEDIA_TYPES[path.suffix])
    except OSError as error:
        raise from_os(error) from error


def _lineage_of(path: Path) -> resources.Lineage | None:
    if not path.is_file():
        return None
    try:
        lineage = json.loads(path.read_bytes())
    except OSError as error:
        raise from_os(error) from error
    except ValueError as error:
        raise _no_lineage(path.name, error) from error
    if not isinstance(lineage, dict):
        raise _no_lineage(path.name, f"a JSON object is wanted, not {lineage!r}")
    return lineage_message(lineage)


def _no_lineage(source: str, why: object) -> InvalidArgument:
    return InvalidArgument(f"{source} is no lineage: {why}.", reason="INVALID_LINEAGE")
