"""Fetches a version's files into a folder: every byte is held against its digest before any file gets its name."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from lorry_client import _direct, _transfer
from lorry_client._calls import blobs, registry
from lorry_client._steps import Steps, ask
from lorry_client.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LorryError,
    Unavailable,
    Unimplemented,
    from_os,
)
from lorry_client.progress import FileState, Progress
from lorry_client.results.catalogue import File, Version
from lorry_client.results.transfer import Pulled, TransferredFile


def pull(reference: str, folder: Path, progress: Progress, direct: bool = False) -> Steps[Pulled]:
    """Fetches what a reference means now; files that are there already stay as they are.

    `direct`: from the registry's store itself, where it signs links.
    """
    version = yield from ask(registry.resolve(reference))
    _check_names(version)
    for file in version.files:
        progress.start(file.path, file.size_bytes)
    parts: dict[Path, Path] = {}
    fetched = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in version.files:
            target = folder / file.path
            state = FileState.EXISTS
            if not _holds(target, file):
                parts[target] = folder / f".{file.path}.{secrets.token_hex(6)}.part"
                state = yield from _download(file, parts[target], progress, direct)
            progress.finish(file.path, state)
            fetched.append(TransferredFile(file.path, file.digest, file.size_bytes, state))
        for target, part in parts.items():
            part.replace(target)
    except OSError as error:
        raise from_os(error) from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return Pulled(version.reference, version, str(folder), tuple(fetched))


def _check_names(version: Version) -> None:
    """Refuses a manifest that would write outside the folder, or twice to one file."""
    seen: set[str] = set()
    for file in version.files:
        plain = not any(letter in file.path for letter in "/\\:\0")
        if not plain or file.path in {"", ".", ".."} or file.path in seen:
            raise InvalidArgument(
                f"{version.reference} holds a file named {file.path!r}, which is not a plain name of its own.",
                reason="UNSAFE_FILE_NAME",
                metadata={"file": file.path},
            )
        seen.add(file.path)


def _holds(target: Path, file: File) -> bool:
    """Whether the file is there with the right bytes."""
    if target.is_symlink() or not target.is_file() or target.stat().st_size != file.size_bytes:
        return False
    with target.open("rb") as stream:
        return file.digest == f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _download(file: File, part: Path, progress: Progress, direct: bool) -> Steps[FileState]:
    """Reads one blob into a part file, going on where a broken connection left off."""
    patience = _transfer.Patience()
    state = FileState.PULLED
    with part.open("xb") as stream:
        received = _Received(file, stream, progress)
        while received.size_bytes < file.size_bytes or file.size_bytes == 0:
            try:
                direct = direct and (yield from _read_direct(file, received))
                if not direct:
                    yield blobs.read(
                        file.digest, received.size_bytes, file.size_bytes, received.take
                    )
                if received.size_bytes >= file.size_bytes:
                    break
                failure: LorryError = Unavailable(
                    f"The server sent {received.size_bytes} of {file.size_bytes} bytes of {file.path}.",
                    reason="INCOMPLETE_READ",
                )
            except Unavailable as error:
                failure = error
            patience.reached(received.size_bytes)
            state = FileState.RESUMED
            yield from patience.bear(failure)
        received.check()
        stream.flush()
        os.fsync(stream.fileno())
    return state


def _read_direct(file: File, received: _Received) -> Steps[bool]:
    """Reads the rest of a blob from the registry's store; False where it signs no links."""
    try:
        answer = yield from ask(blobs.download_link(file.digest))
    except (FailedPrecondition, Unimplemented):
        return False
    yield from _direct.get(answer.url, received.size_bytes, received.take)
    return True


class _Received:
    """The bytes of a file so far, and their running digest."""

    def __init__(self, file: File, stream: BinaryIO, progress: Progress) -> None:
        self.size_bytes = 0
        self._file = file
        self._stream = stream
        self._progress = progress
        self._digest = hashlib.sha256()

    def take(self, data: bytes) -> None:
        if self.size_bytes + len(data) > self._file.size_bytes:
            raise self._damaged(f"more than its {self._file.size_bytes} bytes came")
        try:
            self._stream.write(data)
        except OSError as error:
            raise from_os(error) from error
        self._digest.update(data)
        self.size_bytes += len(data)
        self._progress.at(self._file.path, self.size_bytes)

    def check(self) -> None:
        digest = f"sha256:{self._digest.hexdigest()}"
        if digest != self._file.digest:
            raise self._damaged(f"the bytes that came are {digest}")

    def _damaged(self, how: str) -> DataLoss:
        return DataLoss(
            f"{self._file.path} should be {self._file.digest}, but {how}. Nothing was kept.",
            reason="DIGEST_MISMATCH",
            metadata={"file": self._file.path, "digest": self._file.digest},
        )
