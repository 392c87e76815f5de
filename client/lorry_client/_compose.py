"""Fetches a composition as an adapter folder, ready to be published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_client._calls.requests import LOAD_SECONDS, build
from lorry_client._steps import Download, Steps
from lorry_client.compositions import Composition, message, parse
from lorry_client.errors import FailedPrecondition, from_os

_NAMES = ("adapter_config.json", "adapter_model.safetensors", "lineage.json")


def compose(composition: str | Composition, folder: Path) -> Steps[Path]:
    """Writes the composition's files into an empty folder, made if missing."""
    wanted = parse(composition) if isinstance(composition, str) else composition
    request = build(pb.ComposeRequest, composition=message(wanted))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FailedPrecondition(
                f"{folder} is not empty; name another folder.",
                reason="FOLDER_NOT_EMPTY",
                metadata={"folder": str(folder)},
            )
    except OSError as error:
        raise from_os(error) from error

    def take(piece: Any) -> None:
        if piece.path not in _NAMES:  # nothing else comes, and no path leads elsewhere
            raise FailedPrecondition(
                f"The server sent a file {piece.path!r}; this client may be too old.",
                reason="UNKNOWN_FILE",
            )
        try:
            with (folder / piece.path).open("ab") as stream:
                stream.write(piece.data)
        except OSError as error:
            raise from_os(error) from error

    yield Download(lambda stubs: stubs.inference.Compose, request, take, LOAD_SECONDS)
    return folder
