"""In and out: versions from and to folders, OCI layouts, other registries, and out of the hub. Blocking.

A place is written

    DIR                                  a PEFT folder; to be read, also an OCI layout
    oci:DIR[:TAG]                        an OCI image layout (CNCF ModelPack)
    hf:ORG/REPO[@REVISION]               a hub repository, to be read
    lorry://HOST:PORT/[NAMESPACE/]NAME   another registry; to be read, any reference: …@alias, …:3, …@sha256:…

What a version is made of, and so its digest, is the same wherever it goes; its lineage and its description go along, in
a folder and in a layout as `lineage.json`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format

from lorry_client import _hub, _oci
from lorry_client._folder import LINEAGE_FILE, lineage_message, read_folder
from lorry_client._login import Login
from lorry_client.errors import AlreadyExists, InvalidArgument
from lorry_client.results.catalogue import Lineage, Version

if TYPE_CHECKING:
    from lorry_client.client import Client
    from lorry_client.progress import Progress
    from lorry_client.results import Pushed

_OCI, _HUB, _LORRY = "oci:", "hf:", "lorry://"
DEFAULT_TAG = "latest"
NOBODY = Login(token="")
"""How one shows oneself to another registry where nothing else is said: this one's token is not for its eyes."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An adapter folder from somewhere, and what came with it."""

    folder: Path
    lineage: Lineage | None = None  # None: what the folder's own file says
    description: str = ""


def import_version(
    client: Client,
    source: str,
    name: str,
    alias: str | None = None,
    *,
    base: str | None = None,
    description: str = "",
    other: Login | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Publishes what a place holds under a name.

    Args:
        base: the fingerprint of the base it was trained on, where it fits several; overrides the lineage's.
        other: how to show oneself to another registry; without a token where absent.
    """
    with _brought(source, other, progress) as here:
        return client.push(
            here.folder,
            name,
            alias,
            lineage=here.lineage,
            base=base,
            description=description or here.description,
            progress=progress,
        )


def export_version(
    client: Client,
    reference: str,
    target: str,
    *,
    other: Login | None = None,
    progress: Progress | None = None,
) -> str:
    """Writes what a reference means now to a place; returns what names it there.

    Raises:
        AlreadyExists: the folder holds other files.
    """
    if target.startswith(_HUB):
        raise InvalidArgument(
            "Nothing is written to the hub; export a folder, and upload that.",
            reason="TARGET_INVALID",
        )
    if not target.startswith((_OCI, _LORRY)):
        folder = Path(target)
        if folder.exists() and any(folder.iterdir()):
            raise AlreadyExists(
                f"{target} holds files already; give a new folder.", reason="FOLDER_NOT_EMPTY"
            )
        version = _fetch(client, reference, folder, progress)
        _write_lineage(folder, version)
        return str(folder)
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "adapter"
        version = _fetch(client, reference, folder, progress)
        if target.startswith(_LORRY):
            return copy_to(version, folder, target, other=other, progress=progress).reference
        _write_lineage(folder, version)
        layout, tag = _layout(target)
        digest = _oci.write_layout(
            layout,
            tag or DEFAULT_TAG,
            folder,
            name=version.adapter,
            number=version.number,
            description=version.description,
        )
    return f"{layout}:{tag or DEFAULT_TAG}@{digest}"


def copy_version(
    client: Client,
    reference: str,
    name: str,
    *,
    to_server: str | None = None,
    other: Login | None = None,
    progress: Progress | None = None,
) -> Version:
    """Makes a version of another name out of what a reference means now: here, without moving a byte, or elsewhere."""
    if to_server is None:
        return client.copy(reference, name)
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "adapter"
        version = _fetch(client, reference, folder, progress)
        target = f"{_LORRY}{to_server}/{name}"
        return copy_to(version, folder, target, other=other, progress=progress).version


def copy_to(
    version: Version,
    folder: Path,
    target: str,
    *,
    other: Login | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Publishes a version's files at another registry, with its lineage and description."""
    from lorry_client.client import Client

    server, name = _server_and_name(target)
    with Client(server, login=other or NOBODY) as there:
        return there.push(
            folder,
            name,
            lineage=version.lineage,
            description=version.description,
            progress=progress,
        )


@contextmanager
def _brought(source: str, other: Login | None, progress: Progress | None) -> Iterator[Arrived]:
    """What a place holds, as a folder that is gone afterwards where it was made for this."""
    path = Path(source)
    if source.startswith(_OCI) or (not source.startswith((_HUB, _LORRY)) and _oci.is_layout(path)):
        layout, tag = _layout(source) if source.startswith(_OCI) else (path, None)
        with tempfile.TemporaryDirectory() as aside:
            description = _oci.read_layout(layout, tag, Path(aside))
            yield Arrived(Path(aside), description=description)
    elif source.startswith(_HUB):
        repository, _, revision = source.removeprefix(_HUB).removeprefix("//").partition("@")
        with tempfile.TemporaryDirectory() as aside:
            origin = _hub.fetch(repository, revision or None, Path(aside))
            yield Arrived(Path(aside), lineage=_from_hub(Path(aside), origin))
    elif source.startswith(_LORRY):
        from lorry_client.client import Client

        server, reference = _server_and_name(source)
        with Client(server, login=other or NOBODY) as there, tempfile.TemporaryDirectory() as aside:
            folder = Path(aside) / "adapter"
            version = _fetch(there, reference, folder, progress)
            yield Arrived(folder, version.lineage, version.description)
    else:
        yield Arrived(path)


def _fetch(client: Client, reference: str, folder: Path, progress: Progress | None) -> Version:
    return client.pull(reference, folder, progress=progress).version


def _write_lineage(folder: Path, version: Version) -> None:
    text = json_format.MessageToJson(lineage_message(version.lineage), sort_keys=True)
    (folder / LINEAGE_FILE).write_text(text + "\n", encoding="utf-8")


def _from_hub(folder: Path, origin: str) -> Lineage:
    """The repository's own lineage where it has one, with where it came from."""
    known = read_folder(folder).lineage
    lineage = Lineage() if known is None else Lineage.read(known)
    return replace(lineage, producer=lineage.producer or f"hub {origin}")


def _layout(place: str) -> tuple[Path, str | None]:
    """`oci:DIR[:TAG]` in two."""
    text = place.removeprefix(_OCI)
    folder, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        return Path(text), None
    return Path(folder), tag


def _server_and_name(place: str) -> tuple[str, str]:
    """`lorry://HOST:PORT/NAME` in two."""
    server, slash, name = place.removeprefix(_LORRY).partition("/")
    if not slash or not name or ":" not in server:
        raise InvalidArgument(
            f"{place!r} is no place in a registry; write lorry://HOST:PORT/[namespace/]name.",
            reason="PLACE_INVALID",
        )
    return server, name
