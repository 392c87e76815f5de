"""Publishes a folder as a version: blobs first, the version last, so that a crash anywhere leaves no half version."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lorry.registry.v1 import blob_service_pb2 as pb
from lorry.registry.v1 import resources_pb2 as resources
from lorry_client import _direct, _transfer
from lorry_client._calls import blobs, registry
from lorry_client._folder import AdapterFolder, LocalFile, lineage_message, read_folder
from lorry_client._origin import doubts
from lorry_client._signing import signed
from lorry_client._steps import Steps, ask
from lorry_client.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    LorryError,
    NotFound,
    OutOfRange,
    Unavailable,
    Unimplemented,
    from_os,
)
from lorry_client.progress import FileState, Progress
from lorry_client.results.catalogue import File, Lineage, Version
from lorry_client.results.transfer import Pushed, TransferredFile

# The client's dataclass, the contract's message, or its JSON form.
AnyLineage = Lineage | resources.Lineage | Mapping[str, Any]


def push(
    folder: Path,
    name: str,
    alias: str | None,
    lineage: AnyLineage | None,
    description: str,
    progress: Progress,
    base: str | None = None,
    sign_key: Path | None = None,
    direct: bool = False,
) -> Steps[Pushed]:
    """Publishes a folder under a name; an alias moves only once the version is there.

    `direct`: into the registry's store itself, where it signs links.
    """
    # 1) What is here, and are the names such as the server takes? It says so before anything is sent.
    lookup = registry.get_adapter(name)
    local = read_folder(folder)
    message = local.lineage if lineage is None else lineage_message(lineage)
    if base is not None:
        message = _for_base(message, base)
    for path, why in local.skipped.items():
        progress.skip(path, why)
    try:
        yield from ask(lookup)
        is_new = False
    except NotFound:
        is_new = True
    if alias is not None:
        with contextlib.suppress(NotFound):
            yield from ask(registry.get_alias(name, alias))
    patience = _transfer.Patience()
    with signed(folder, local, sign_key) as whole:
        while True:
            # 2) The bytes.
            files = yield from _upload_all(whole, progress, direct)
            # 3) The version, and what points at it.
            try:
                version = yield from _publish(name, is_new, whole, message, description)
                break
            except FailedPrecondition as error:
                # One that was there already was collected in between: it goes up again.
                if error.reason != "BLOBS_MISSING":
                    raise
                yield from patience.bear(error)
    moved = None
    if alias is not None:
        moved = yield from ask(registry.point_alias(name, alias, {version.number: 1}))
    warnings = yield from doubts(folder, message, version)
    return Pushed(version.reference, version, moved, files, tuple(local.skipped), tuple(warnings))


def _for_base(lineage: resources.Lineage | None, fingerprint: str) -> resources.Lineage:
    """The lineage for that base, whatever it said before; the registry knows what the base is called."""
    changed = resources.Lineage()
    if lineage is not None:
        changed.CopyFrom(lineage)
    if changed.base_fingerprint != fingerprint:
        changed.base_fingerprint, changed.base_name = fingerprint, ""
    return changed


def _publish(
    name: str,
    is_new: bool,
    local: AdapterFolder,
    lineage: resources.Lineage | None,
    description: str,
) -> Steps[Version]:
    """Creates the version, and the adapter where it is new; takes that away again where the version is refused."""
    if is_new:
        try:
            yield from ask(registry.create_adapter(name))
        except AlreadyExists:
            is_new = False
    files = [one.file for one in local.files]
    try:
        return (yield from ask(registry.create_version(name, files, lineage, description)))
    except LorryError:
        if is_new:
            with contextlib.suppress(LorryError):
                yield from ask(registry.delete_adapter(name, force=False, etag=None))
        raise


def _upload_all(
    local: AdapterFolder, progress: Progress, direct: bool
) -> Steps[tuple[TransferredFile, ...]]:
    for one in local.files:
        progress.start(one.file.path, one.file.size_bytes)
    missing = yield from ask(blobs.find_missing([one.file.digest for one in local.files]))
    sent = []
    for one in local.files:
        # Two files of the same bytes are one blob: the second one exists by then.
        committed = missing.pop(one.file.digest, None)
        state = FileState.EXISTS
        if committed is not None:
            state = yield from _upload(one, committed, progress, direct)
        progress.finish(one.file.path, state)
        sent.append(TransferredFile(one.file.path, one.file.digest, one.file.size_bytes, state))
    return tuple(sent)


def _upload(
    local: LocalFile, committed: int | None, progress: Progress, direct: bool
) -> Steps[FileState]:
    """Writes one blob from where the server has it, however often the connection breaks while it gets further."""
    patience = _transfer.Patience()
    resumed = False
    while True:
        try:
            if committed is None:
                committed = yield from _committed(local.file)
                if committed is None:  # the bytes had arrived, and the answer was lost
                    return FileState.RESUMED if resumed else FileState.PUSHED
            patience.reached(committed)
            resumed = resumed or committed > 0
            start = committed
            if direct:
                # The stream that follows brings what is left: nothing, and the registry holds the bytes to the digest.
                direct, start = yield from _put_direct(local, committed, progress)
            pieces = _Pieces(local, start, progress)
            answer: pb.WriteBlobResponse = yield blobs.write(pieces, local.file.size_bytes)
            if answer.complete:
                return FileState.RESUMED if resumed else FileState.PUSHED
            if pieces.failure is not None:
                raise pieces.failure
            failure: LorryError = Unavailable(
                f"The server took {answer.committed_size} of {local.file.size_bytes} bytes of {local.file.path}.",
                reason="INCOMPLETE_WRITE",
            )
        except (OutOfRange, Unavailable) as error:
            failure = error
        except DataLoss as error:
            # What an earlier attempt left may be the bytes of another state of this file; the server has dropped them.
            if not committed:
                raise
            failure = error
        yield from patience.bear(failure)
        committed = None


def _put_direct(local: LocalFile, offset: int, progress: Progress) -> Steps[tuple[bool, int]]:
    """Puts the rest of a blob into the registry's store, part by part: whether it signs links, and where that ended."""
    size = local.file.size_bytes
    while offset < size:
        try:
            part = yield from ask(blobs.upload_link(local.file.digest, size, offset))
        except (FailedPrecondition, Unimplemented):
            return False, offset
        stop = offset + part.part_bytes
        data = _chunks(local, offset, stop, progress)
        yield from _direct.put(part.url, dict(part.headers), data, part.part_bytes)
        offset = stop
    return True, offset


def _committed(file: File) -> Steps[int | None]:
    """How many bytes the server has of a blob; None where it is complete."""
    try:
        answer = yield from ask(blobs.get_write(file.digest))
    except NotFound:
        return 0
    return None if answer.complete else answer.committed_size


class _Pieces(Iterator[pb.WriteBlobRequest]):
    """The messages that write a file from an offset on; where it cannot be read they end early, with `failure` set."""

    def __init__(self, local: LocalFile, offset: int, progress: Progress) -> None:
        self.failure: LorryError | None = None
        self._messages = self._read(local, offset, progress)

    def __next__(self) -> pb.WriteBlobRequest:
        return next(self._messages)

    def _read(
        self, local: LocalFile, offset: int, progress: Progress
    ) -> Iterator[pb.WriteBlobRequest]:
        size = local.file.size_bytes
        digest, first_size = local.file.digest, size
        try:
            # Where another state of the file left more than it has now, the server hears of it and drops that.
            for data in _chunks(local, offset, size, progress) if offset < size else (b"",):
                yield pb.WriteBlobRequest(
                    digest=digest,
                    size_bytes=first_size,
                    write_offset=offset,
                    data=data,
                    finish_write=offset + len(data) >= size,
                )
                offset += len(data)
                digest, first_size = "", 0
        except LorryError as error:
            self.failure = error


def _chunks(local: LocalFile, offset: int, stop: int, progress: Progress) -> Iterator[bytes]:
    """A file's bytes from an offset on. Raises LorryError where they cannot be read."""
    try:
        with local.source.open("rb") as stream:
            stream.seek(offset)
            while offset < stop:
                data = stream.read(min(_transfer.CHUNK_BYTES, stop - offset))
                if not data:
                    raise FailedPrecondition(
                        f"{local.file.path} became shorter while it was pushed.",
                        reason="FILE_CHANGED",
                    )
                offset += len(data)
                progress.at(local.file.path, offset)
                yield data
    except OSError as error:
        raise from_os(error) from error
