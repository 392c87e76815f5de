"""Versions in an OCI image layout, as CNCF ModelPack lays models out: one layer for each file, uncompressed.

    oci-layout, index.json, blobs/sha256/<hex>

`oras`, `skopeo` and `kit` carry such a layout to and from OCI registries. What is read is a stranger's until it is
checked: every blob is held against its digest, every name must be a plain one, and archives are read entry by entry.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lorry_client.errors import DataLoss, InvalidArgument, NotFound, from_os

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG = "application/vnd.cncf.model.config.v1+json"
_LAYER = "application/vnd.cncf.model."
_KINDS = {".safetensors": "weight", ".md": "doc", ".png": "doc", ".sig": "doc"}
_FILE_PATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"
_REF_NAME = "org.opencontainers.image.ref.name"
_DESCRIPTION = "org.opencontainers.image.description"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+=@-]{0,199}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_JSON_BYTES = 4 << 20
_MAX_FILES = 256
_COPIED_BYTES = 1 << 20


def is_layout(folder: Path) -> bool:
    return (folder / "oci-layout").is_file()


def write_layout(
    layout: Path, tag: str, folder: Path, *, name: str, number: int, description: str
) -> str:
    """Adds a folder's files to a layout, which is made where it is missing; returns the manifest's digest.

    A tag that is there already names this version from now on. `index.json` comes last: until then nothing is seen.
    """
    try:
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        layers = [
            {**_put_file(blobs, path), "annotations": {_FILE_PATH: path.name, _TITLE: path.name}}
            for path in sorted(folder.iterdir())
        ]
        config = {
            "descriptor": {"name": name, "version": str(number), "description": description},
            "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
            "config": {"format": "safetensors"},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": _ARTIFACT,
            "config": {"mediaType": _CONFIG, **_put_json(blobs, config)},
            "layers": layers,
            "annotations": {_TITLE: name, _DESCRIPTION: description},
        }
        entry = {
            "mediaType": _MANIFEST,
            "artifactType": _ARTIFACT,
            **_put_json(blobs, manifest),
            "annotations": {_REF_NAME: tag},
        }
        _write(layout / "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        others = [one for one in _entries(layout) if _tag(one) != tag]
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [*others, entry]}
        _write(layout / "index.json", json.dumps(index, indent=1).encode())
    except OSError as error:
        raise from_os(error) from error
    return str(entry["digest"])


def read_layout(layout: Path, tag: str | None, into: Path) -> str:
    """Writes the files of a tag, or of the only manifest, into a folder; returns the description.

    Raises:
        NotFound: there is no such tag.
        InvalidArgument: the layout, a name or a layer is none that can be taken in.
        DataLoss: a blob's bytes are not its digest's.
    """
    try:
        manifest = _json_blob(layout, _choose(layout, tag))
        layers = manifest.get("layers")
        if not isinstance(layers, list) or not 0 < len(layers) <= _MAX_FILES:
            raise _invalid(f"its manifest has no list of 1 to {_MAX_FILES} layers")
        seen: set[str] = set()
        for layer in layers:
            for name, stream in _files(layout, layer):
                if not _NAME.fullmatch(name) or name.casefold() in seen:
                    raise _invalid(f"{name[:120]!r} is no plain file name of its own")
                seen.add(name.casefold())
                if len(seen) > _MAX_FILES:
                    raise _invalid(f"it has more than {_MAX_FILES} files")
                with (into / name).open("xb") as target:
                    shutil.copyfileobj(stream, target, _COPIED_BYTES)
    except OSError as error:
        raise from_os(error) from error
    annotations = manifest.get("annotations")
    description = annotations.get(_DESCRIPTION) if isinstance(annotations, dict) else None
    return description if isinstance(description, str) else ""


def _files(layout: Path, layer: Any) -> Iterator[tuple[str, IO[bytes]]]:
    """Each file of a layer by name: itself, or the entries of an uncompressed archive."""
    if not isinstance(layer, dict):
        raise _invalid("a layer is no JSON object")
    kind = str(layer.get("mediaType"))
    annotations = layer.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    with _checked_blob(layout, layer) as stream:
        if kind.startswith(_LAYER) and kind.endswith(".raw"):
            yield str(annotations.get(_FILE_PATH) or annotations.get(_TITLE) or ""), stream
        elif kind.endswith(".tar"):
            try:
                with tarfile.open(fileobj=stream, mode="r:") as archive:
                    for member in archive:
                        if member.isdir():
                            continue
                        content = archive.extractfile(member) if member.isreg() else None
                        if content is None:
                            raise _invalid(f"{member.name[:120]!r} in a layer is no regular file")
                        yield member.name.removeprefix("./"), content
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise _invalid(f"a layer is no archive that can be read ({error})") from error
        else:
            raise _invalid(
                f"a layer has the media type {kind[:120]!r}; {_LAYER}….raw and ….tar are taken, uncompressed"
            )


def _choose(layout: Path, tag: str | None) -> Mapping[str, Any]:
    entries = [one for one in _entries(layout) if one.get("mediaType") == _MANIFEST]
    chosen = [one for one in entries if tag in (None, _tag(one))]
    if len(chosen) == 1:
        return chosen[0]
    tags = ", ".join(sorted(_tag(one) for one in entries)) or "none"
    if not chosen:
        raise NotFound(f"{layout} has no tag {tag!r}; it has {tags}.", reason="TAG_NOT_FOUND")
    raise InvalidArgument(
        f"{layout} holds {len(chosen)} manifests; say which with :TAG, of {tags}.",
        reason="TAG_MISSING",
    )


def _entries(layout: Path) -> list[dict[str, Any]]:
    path = layout / "index.json"
    if not path.exists():
        return []
    with path.open("rb") as stream:
        index = _parse(stream.read(_MAX_JSON_BYTES + 1))
    entries = index.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise _invalid("index.json has no list of manifests")
    return entries


def _tag(entry: Mapping[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(_REF_NAME, "")) if isinstance(annotations, dict) else ""


def _json_blob(layout: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    with _checked_blob(layout, entry) as stream:
        return _parse(stream.read(_MAX_JSON_BYTES + 1))


def _checked_blob(layout: Path, entry: Mapping[str, Any]) -> IO[bytes]:
    """A blob from its beginning, once all of its bytes were held against its digest."""
    digest = str(entry.get("digest"))
    if not _DIGEST.fullmatch(digest):
        raise _invalid(f"{digest[:100]!r} is no SHA-256 digest")
    path = layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
    if not path.is_file() or path.is_symlink():
        raise _invalid(f"blob {digest} is missing")
    stream = path.open("rb")
    if hashlib.file_digest(stream, "sha256").hexdigest() != path.name:
        stream.close()
        raise DataLoss(
            f"Blob {digest} of {layout} has other bytes than its digest says.",
            reason="DIGEST_MISMATCH",
            metadata={"digest": digest},
        )
    stream.seek(0)
    return stream


def _parse(data: bytes) -> dict[str, Any]:
    try:
        if len(data) > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES} bytes")
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"a manifest is no JSON that can be read ({error})") from error
    if not isinstance(value, dict):
        raise _invalid("a manifest is no JSON object")
    return value


def _put_file(blobs: Path, path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
    if not (blobs / digest).exists():
        part = blobs / f".{digest}.part"
        shutil.copyfile(path, part)
        part.replace(blobs / digest)
    kind = _KINDS.get(path.suffix, "weight.config")
    media_type = f"{_LAYER}{'doc' if path.name == 'lineage.json' else kind}.v1.raw"
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _put_json(blobs: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    _write(blobs / digest, data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"This OCI layout cannot be taken in: {why}.", reason="OCI_LAYOUT_INVALID"
    )
