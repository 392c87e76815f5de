"""Blobs in an object store.

    blobs/sha256/ab/<hex>            finished; never written again
    uploads/<hex>/<offset, 16 hex>   unfinished: each append is an object, called after where its bytes begin
    aside/<hex>-<random>             what was no blob's bytes after all

An object store knows no append, no lock and no rename. What it does promise suffices: of several who create one
object one wins, and an object appears whole. So of several writers at one offset one commits; what is committed is
how far the parts reach without a gap, whoever asks, in whatever process; and a blob is assembled from its parts
inside the store, once their digest was found right.

The digest is taken while the bytes pass through; only what this process has not seen is read back.
"""

import hashlib
import io
import os
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

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
from lorry_registry.errors import DataLoss
from lorry_registry.links import Link, PartLink
from lorry_registry.objects import Objects, StoredObject

_HASHERS = 256
_READ_BYTES = 4 << 20
_ABANDONED = "assembly "


class ObjectBlobStore:
    """A BlobStore over objects."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.part_bytes = objects.part_bytes
        self._hashers = _Hashers()

    def progress(self, digest: str) -> WriteProgress:
        blob = self._objects.look(_blob(digest))
        if blob is not None:
            return WriteProgress(blob.size_bytes, complete=True)
        committed = _reach(self._parts(digest))
        if committed == 0:
            # Between the two looks, another writer may have finished.
            blob = self._objects.look(_blob(digest))
            if blob is not None:
                return WriteProgress(blob.size_bytes, complete=True)
        return WriteProgress(committed, complete=False)

    def append(self, digest: str, *, size_bytes: int, offset: int, data: bytes) -> WriteProgress:
        check_announced(digest, size_bytes)
        blob = self._objects.look(_blob(digest))
        if blob is not None:
            return WriteProgress(blob.size_bytes, complete=True)
        parts = self._parts(digest)
        committed = _reach(parts)
        try:
            check_append(digest, committed, size_bytes=size_bytes, offset=offset, added=len(data))
        except DataLoss:
            self._discard(digest)
            raise
        if not data:
            return WriteProgress(committed, complete=False)
        part = self._objects.create(_part(digest, offset), data)
        if (
            part is None
        ):  # another writer was first, or the part of one from before is beyond a gap now closed
            committed = _reach(self._parts(digest))
            check_append(digest, committed, size_bytes=size_bytes, offset=offset, added=len(data))
            return self.progress(digest)
        self._hashers.add(parts, part, data)
        return WriteProgress(committed + len(data), complete=False)

    def flush(self, digest: str) -> WriteProgress:
        return self.progress(digest)  # an object that was created is safe

    def finish(self, digest: str, *, size_bytes: int) -> WriteProgress:
        while True:
            blob = self._objects.look(_blob(digest))
            if blob is not None:
                return WriteProgress(blob.size_bytes, complete=True)
            parts = self._parts(digest)
            check_complete(digest, _reach(parts), size_bytes=size_bytes)
            try:
                actual = self._digest(parts)
                if actual != digest:
                    self._discard(digest)
                    raise digest_mismatch(digest, actual)
                self._objects.assemble(parts, _blob(digest))
            except FileNotFoundError:
                continue  # another finished it, or discarded it: look again
            self._discard(digest)
            return WriteProgress(size_bytes, complete=True)

    def size(self, digest: str) -> int:
        return self._look(digest).size_bytes

    def open(self, digest: str) -> BinaryIO:
        blob = self._look(digest)
        return cast(BinaryIO, io.BufferedReader(_ObjectReader(self._objects, blob), _READ_BYTES))

    @contextmanager
    def local_file(self, digest: str) -> Iterator[Path]:
        hasher = hashlib.sha256()
        with tempfile.NamedTemporaryFile(prefix="lorry-blob-") as file, self.open(digest) as stream:
            while piece := stream.read(_READ_BYTES):
                hasher.update(piece)
                file.write(piece)
            file.flush()
            if _named(hasher) != digest:
                raise DataLoss(
                    f"the store's bytes of blob {digest} have the digest {_named(hasher)}: "
                    "`lorry registry fsck --repair` sets them aside, then push the adapter again",
                    reason="DIGEST_MISMATCH",
                    digest=digest,
                    actual=_named(hasher),
                )
            os.chmod(file.name, 0o444)
            yield Path(file.name)

    def sign_read(self, digest: str) -> Link:
        return self._objects.sign_read(self._look(digest).key)

    def sign_part(self, digest: str, *, size_bytes: int, offset: int) -> PartLink:
        check_announced(digest, size_bytes)
        committed = self.progress(digest).committed_size  # of a blob that exists, its whole size
        part_bytes = max(1, min(self.part_bytes, size_bytes - offset))
        try:
            check_append(digest, committed, size_bytes=size_bytes, offset=offset, added=part_bytes)
        except DataLoss:
            self._discard(digest)
            raise
        link = self._objects.sign_create(_part(digest, offset), size_bytes=part_bytes)
        return PartLink(link, part_bytes)

    def blobs(self) -> Iterator[StoredBlob]:
        for one in self._objects.find("blobs/sha256/"):
            yield StoredBlob("sha256:" + one.key.rpartition("/")[2], one.size_bytes, one.modified)

    def leftovers(self) -> Iterator[Leftover]:
        for one in self._objects.find("uploads/"):
            yield Leftover(one.key, one.size_bytes, one.modified)
        for one in self._objects.abandoned("blobs/"):
            yield Leftover(f"{_ABANDONED}{one.key} {one.tag}", 0, one.modified)

    def touch(self, digest: str) -> None:
        try:
            self._objects.touch(_blob(digest))
        except FileNotFoundError:
            return

    def delete(self, digest: str) -> None:
        self._objects.delete([_blob(digest)])

    def drop(self, leftover: Leftover, *, older_than: float) -> bool:
        if leftover.name.startswith(_ABANDONED):
            _, key, tag = leftover.name.split(" ")
            self._objects.abandon(StoredObject(key, 0, tag, 0.0))
            return True
        # Whoever goes on with a write adds parts after the last one: it is as young as the youngest.
        siblings = list(self._objects.find(leftover.name.rpartition("/")[0] + "/"))
        if any(one.modified >= older_than for one in siblings):
            return False
        self._objects.delete([leftover.name])
        return True

    def set_aside(self, digest: str) -> str:
        target = f"aside/{digest.removeprefix('sha256:')}-{secrets.token_hex(4)}"
        self._objects.move(_blob(digest), target)
        return target

    def close(self) -> None:
        self._objects.close()

    def _look(self, digest: str) -> StoredObject:
        blob = self._objects.look(_blob(digest))
        if blob is None:
            raise blob_not_found(digest)
        return blob

    def _parts(self, digest: str) -> list[StoredObject]:
        """The parts that follow each other from the blob's first byte on."""
        reached, parts = 0, []
        for part in self._objects.find(_uploads(digest)):
            if part.key == _part(digest, reached):
                parts.append(part)
                reached += part.size_bytes
        return parts

    def _digest(self, parts: Sequence[StoredObject]) -> str:
        hasher = self._hashers.of(parts)
        if hasher is None:
            hasher = hashlib.sha256()
            for part in parts:
                for start in range(0, part.size_bytes, _READ_BYTES):
                    hasher.update(self._objects.read(part.key, start, start + _READ_BYTES))
        return _named(hasher)

    def _discard(self, digest: str) -> None:
        self._objects.delete([one.key for one in self._objects.find(_uploads(digest))])


class _Hashers:
    """The digests so far of writes that passed through this process, each known by the parts that it is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[tuple[str, str], ...], Any] = OrderedDict()

    def add(self, before: Sequence[StoredObject], part: StoredObject, data: bytes) -> None:
        with self._lock:
            hasher = self._known.pop(_identity(before), None) if before else hashlib.sha256()
        if hasher is None:
            return  # another process has seen what came before
        hasher.update(data)
        with self._lock:
            self._known[_identity([*before, part])] = hasher
            while len(self._known) > _HASHERS:
                self._known.popitem(last=False)

    def of(self, parts: Sequence[StoredObject]) -> Any | None:
        with self._lock:
            return self._known.get(_identity(parts))


class _ObjectReader(io.RawIOBase):
    """An object as a file to read from anywhere."""

    def __init__(self, objects: Objects, blob: StoredObject) -> None:
        super().__init__()
        self._objects = objects
        self._blob = blob
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._blob.size_bytes}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:
        # As it is inherited, it would ask for 8 KiB at a time.
        data = self._objects.read(self._blob.key, self._position, self._blob.size_bytes)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._blob.size_bytes)
        data = self._objects.read(self._blob.key, self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _identity(parts: Sequence[StoredObject]) -> tuple[tuple[str, str], ...]:
    return tuple((part.key, part.tag) for part in parts)


def _reach(parts: Sequence[StoredObject]) -> int:
    return sum(part.size_bytes for part in parts)


def _named(hasher: Any) -> str:
    return f"sha256:{hasher.hexdigest()}"


def _blob(digest: str) -> str:
    name = digest.removeprefix("sha256:")
    return f"blobs/sha256/{name[:2]}/{name}"


def _uploads(digest: str) -> str:
    return f"uploads/{digest.removeprefix('sha256:')}/"


def _part(digest: str, offset: int) -> str:
    return f"{_uploads(digest)}{offset:016x}"
