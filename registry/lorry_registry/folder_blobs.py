"""Blobs in a folder of this machine.

    <home>/blobs/sha256/ab/<hex>   finished; read-only; the name is the proof
    <home>/uploads/<hex>           unfinished; its length is the committed size
    <home>/aside/<hex>-<random>    what was no blob's bytes after all

Plain files rather than fsspec: the promises here rest on appending, `flock`, `fsync` and atomic rename, none of
which fsspec's file system interface has, and a version's files are linked, not copied, to where a server loads them.
A digest is taken when a blob is finished, of bytes that were written a moment ago and are still in memory.

Several threads and several processes may write the same blob. Whoever appends or finishes holds a lock on the
upload file and, since finishing renames the file and discarding removes it, looks after locking whether the path
still means the file that is locked.
"""

import errno
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from lorry_registry.blobs import (
    Leftover,
    StoredBlob,
    WriteProgress,
    blob_not_found,
    check_announced,
    check_append,
    check_complete,
    digest_mismatch,
)
from lorry_registry.digests import digest_file
from lorry_registry.errors import DataLoss, FailedPrecondition, ResourceExhausted
from lorry_registry.links import Link, PartLink, no_links

UPLOAD_LIFETIME_SECONDS = 7 * 24 * 3600
"""An unfinished upload that nobody has written to for longer is dropped when a store is opened on the home."""

_LOG = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = "the registry keeps its blobs in a folder, which signs no links"


class FolderBlobStore:
    """A BlobStore in the folder `home`, which is made where it is missing.

    Opening it drops the uploads that nobody has gone on with for UPLOAD_LIFETIME_SECONDS. Finished blobs stay until
    they are collected (`upkeep`).

    Raises:
        FailedPrecondition: `HOME_UNWRITABLE`, `home` cannot be written to.
    """

    part_bytes = 0

    def __init__(self, home: Path) -> None:
        self._blobs = home / "blobs" / "sha256"
        self._uploads = home / "uploads"
        self._aside = home / "aside"
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._uploads.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self._uploads):
                pass
        except OSError as error:
            raise FailedPrecondition(
                f"the registry's home {home} cannot be written to ({error.strerror}): "
                "choose another with --home or LORRY_HOME, or correct its permissions",
                reason="HOME_UNWRITABLE",
                home=home,
            ) from error
        self._drop_old_uploads()

    def _drop_old_uploads(self) -> None:
        oldest = time.time() - UPLOAD_LIFETIME_SECONDS
        for leftover in self.leftovers():
            if leftover.modified < oldest and self.drop(leftover, older_than=oldest):
                _LOG.info("dropped the unfinished upload %s", leftover.name)

    def progress(self, digest: str) -> WriteProgress:
        with suppress(FileNotFoundError):
            return WriteProgress(self._blob(digest).stat().st_size, complete=True)
        with suppress(FileNotFoundError):
            return WriteProgress(self._upload(digest).stat().st_size, complete=False)
        # Between the two looks, another writer may have finished.
        with suppress(FileNotFoundError):
            return WriteProgress(self._blob(digest).stat().st_size, complete=True)
        return WriteProgress(0, complete=False)

    def append(self, digest: str, *, size_bytes: int, offset: int, data: bytes) -> WriteProgress:
        check_announced(digest, size_bytes)
        with self._locked(digest) as upload:
            if upload is None:
                return self.progress(digest)
            committed = os.fstat(upload).st_size
            try:
                check_append(
                    digest, committed, size_bytes=size_bytes, offset=offset, added=len(data)
                )
            except DataLoss:
                self._upload(digest).unlink()
                raise
            with _full_disk_is_exhaustion(digest):
                _write_all(upload, data)
            return WriteProgress(committed + len(data), complete=False)

    def flush(self, digest: str) -> WriteProgress:
        with suppress(FileNotFoundError), self._upload(digest).open("rb") as stream:
            os.fsync(stream.fileno())
        return self.progress(digest)

    def finish(self, digest: str, *, size_bytes: int) -> WriteProgress:
        upload, blob = self._upload(digest), self._blob(digest)
        with self._locked(digest) as descriptor:
            if descriptor is None:
                return self.progress(digest)
            committed = os.fstat(descriptor).st_size
            check_complete(digest, committed, size_bytes=size_bytes)
            actual = digest_file(upload)
            if actual != digest:
                upload.unlink()
                raise digest_mismatch(digest, actual)
            with _full_disk_is_exhaustion(digest):
                os.fsync(descriptor)
                blob.parent.mkdir(exist_ok=True)
                os.fchmod(descriptor, 0o444)
                os.utime(descriptor)
                upload.rename(blob)
                # A rename is on disk once the folders that it changed are.
                for folder in (blob.parent, self._blobs, self._uploads):
                    _fsync_folder(folder)
        return WriteProgress(size_bytes, complete=True)

    def size(self, digest: str) -> int:
        try:
            return self._blob(digest).stat().st_size
        except FileNotFoundError:
            raise blob_not_found(digest) from None

    def open(self, digest: str) -> BinaryIO:
        try:
            return self._blob(digest).open("rb")
        except FileNotFoundError:
            raise blob_not_found(digest) from None

    @contextmanager
    def local_file(self, digest: str) -> Iterator[Path]:
        self.size(digest)
        yield self._blob(digest)

    def sign_read(self, digest: str) -> Link:
        self.size(digest)
        raise no_links(_NO_LINKS)

    def sign_part(self, digest: str, *, size_bytes: int, offset: int) -> PartLink:
        raise no_links(_NO_LINKS)

    def blobs(self) -> Iterator[StoredBlob]:
        for folder in sorted(self._blobs.iterdir()):
            for path in sorted(folder.iterdir()):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found = path.stat()
                    yield StoredBlob(f"sha256:{path.name}", found.st_size, found.st_mtime)

    def leftovers(self) -> Iterator[Leftover]:
        for path in sorted(self._uploads.iterdir()):
            with suppress(FileNotFoundError):  # finished meanwhile
                found = path.stat()
                yield Leftover(path.name, found.st_size, found.st_mtime)

    def touch(self, digest: str) -> None:
        with suppress(FileNotFoundError):
            os.utime(self._blob(digest))

    def delete(self, digest: str) -> None:
        self._blob(digest).unlink(missing_ok=True)

    def drop(self, leftover: Leftover, *, older_than: float) -> bool:
        path = self._uploads / leftover.name
        # Gone meanwhile, being written, or not ours: whoever looks next sees it again.
        with suppress(OSError), path.open("rb") as upload:
            fcntl.flock(upload, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have gone on with it, or finished it, before the lock was taken.
            if os.fstat(upload.fileno()).st_mtime < older_than and _is_at(upload.fileno(), path):
                path.unlink()
                return True
        return False

    def set_aside(self, digest: str) -> str:
        self._aside.mkdir(exist_ok=True)
        target = self._aside / f"{digest.removeprefix('sha256:')}-{secrets.token_hex(4)}"
        self._blob(digest).rename(target)
        return str(target)

    def close(self) -> None:
        """Nothing: every call opens and closes what it needs."""

    def _blob(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self._blobs / name[:2] / name

    def _upload(self, digest: str) -> Path:
        return self._uploads / digest.removeprefix("sha256:")

    @contextmanager
    def _locked(self, digest: str) -> Iterator[int | None]:
        """The upload file, open for appending and locked; None where the blob exists already."""
        while True:
            if self._blob(digest).exists():
                yield None
                return
            with _full_disk_is_exhaustion(digest):
                descriptor = os.open(
                    self._upload(digest),
                    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
                    0o644,
                )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is_at(descriptor, self._upload(digest)):
                    continue  # finished or discarded while this one waited for the lock
                if self._blob(digest).exists():
                    # Finished between the two looks, and this opening made a fresh, empty upload.
                    self._upload(digest).unlink()
                    yield None
                else:
                    yield descriptor
                return
            finally:
                os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _write_all(descriptor: int, data: bytes) -> None:
    # A short write (a disk that fills up) leaves a longer committed prefix, never a hole: resuming stays exact.
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk_is_exhaustion(digest: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ResourceExhausted(
            f"the registry's disk is full, blob {digest} could not be written: "
            "free space, then send again; what is committed is kept",
            reason="DISK_FULL",
            digest=digest,
        ) from error
