"""What the registry asks of a place that keeps bytes by their digest.

A blob exists once all its bytes are there and match its digest; until then it is an unfinished write, which any
number of clients may continue. `folder_blobs` keeps them in a folder, `object_blobs` in an object store (S3) or in
memory.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from lorry_registry.errors import DataLoss, InvalidArgument, NotFound, OutOfRange
from lorry_registry.links import Link, PartLink

MAX_BLOB_BYTES = 64 << 30
"""No adapter file is larger; a size beyond it is a mistake or an attack."""


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """How far a write has come. `complete`: the blob exists, and `committed_size` is its whole size."""

    committed_size: int
    complete: bool


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that exists. `modified`: when it came, or was last asked to stay; seconds since 1970."""

    digest: str
    size_bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an unfinished write has left so far. `name` is the store's own; `modified` as a StoredBlob's."""

    name: str
    size_bytes: int
    modified: float


class BlobStore(Protocol):
    """Bytes by digest. Every method is safe to call from any thread and, for shared stores, from any process.

    Digests are well-formed when they arrive here. Where storage itself fails: ResourceExhausted `DISK_FULL` when
    it is full, Unavailable `BLOBS_UNAVAILABLE` where it does not answer, else the OSError as it is.
    """

    part_bytes: int
    """How many bytes an `append` should bring, but for the last one; 0: any number is as good."""

    def progress(self, digest: str) -> WriteProgress:
        """How much of the blob is there; (0, False) where nothing is. Never raises for an unknown digest."""
        ...

    def append(self, digest: str, *, size_bytes: int, offset: int, data: bytes) -> WriteProgress:
        """Adds `data` to the unfinished write, creating it at offset 0.

        A blob that exists takes nothing and answers with its full size. Of several writers at one offset one wins;
        the others get OutOfRange and go on from what it committed.

        Raises:
            OutOfRange: `offset` is not the committed size, which is in the metadata as `committed_size`.
            InvalidArgument: `data` would go beyond `size_bytes`, or `size_bytes` is no sensible size.
            DataLoss: more than `size_bytes` is committed already, so not of this blob; it is discarded.
        """
        ...

    def flush(self, digest: str) -> WriteProgress:
        """Makes what is committed survive a loss of power; called when a stream ends without finishing."""
        ...

    def finish(self, digest: str, *, size_bytes: int) -> WriteProgress:
        """Holds the bytes against the digest and makes the blob exist, atomically. Idempotent.

        Raises:
            InvalidArgument: the committed size is not `size_bytes`; what is committed is kept.
            DataLoss: the bytes have another digest; the unfinished write is discarded.
        """
        ...

    def size(self, digest: str) -> int:
        """The blob's size in bytes. Raises NotFound where it does not exist (unfinished writes do not count)."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """The blob's bytes, seekable; the caller closes it. Raises NotFound."""
        ...

    def local_file(self, digest: str) -> AbstractContextManager[Path]:
        """The blob as a file to read while the context lasts; nobody may change it.

        Raises NotFound, and DataLoss where the bytes that a store elsewhere sends are not the blob's.
        """
        ...

    def sign_read(self, digest: str) -> Link:
        """A link to the blob's bytes.

        Raises NotFound, and FailedPrecondition `LINKS_UNSUPPORTED` where the store signs none.
        """
        ...

    def sign_part(self, digest: str, *, size_bytes: int, offset: int) -> PartLink:
        """A link that brings what an `append` at `offset` would; `finish` is the same for both.

        Of several who put to one offset one wins, as among those who append. Raises as `append` and `sign_read`.
        """
        ...

    # For whoever looks after the store.

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in the order of digests. Those that come or go meanwhile may be among them or not."""
        ...

    def leftovers(self) -> Iterator[Leftover]:
        """What unfinished writes have left, those that go on included."""
        ...

    def touch(self, digest: str) -> None:
        """Makes a blob as young as a new one, so that it is not collected; nothing where it does not exist."""
        ...

    def delete(self, digest: str) -> None:
        """Removes a blob; nothing where it does not exist."""
        ...

    def drop(self, leftover: Leftover, *, older_than: float) -> bool:
        """Removes what a write has left, unless somebody went on with it after `older_than`; whether it did."""
        ...

    def set_aside(self, digest: str) -> str:
        """Moves a blob whose bytes are not its digest's to where nobody reads it, and returns the place.

        The blob does not exist any more: whoever pushes it brings it back.
        """
        ...

    def close(self) -> None: ...


# What every implementation answers with.


def check_announced(digest: str, size_bytes: int) -> None:
    if not 0 <= size_bytes <= MAX_BLOB_BYTES:
        raise InvalidArgument(
            f"size_bytes {size_bytes} of blob {digest}: it must be 0 to {MAX_BLOB_BYTES}",
            reason="BLOB_SIZE_INVALID",
            digest=digest,
            size_bytes=size_bytes,
        )


def check_append(digest: str, committed: int, *, size_bytes: int, offset: int, added: int) -> None:
    """Whether `added` bytes at `offset` may follow what is committed. Raises as `BlobStore.append`."""
    if committed > size_bytes:
        raise DataLoss(
            f"an earlier write left {committed} bytes of blob {digest}, which has {size_bytes}: "
            "nothing was kept, send it from the start",
            reason="DIGEST_MISMATCH",
            digest=digest,
            size_bytes=size_bytes,
        )
    if offset != committed:
        raise OutOfRange(
            f"blob {digest} is committed up to {committed}, not {offset}: continue at {committed}",
            reason="WRITE_OFFSET_MISMATCH",
            digest=digest,
            committed_size=committed,
        )
    if committed + added > size_bytes:
        raise InvalidArgument(
            f"{added} bytes at {offset} go beyond the {size_bytes} bytes that were announced for blob {digest}: "
            "announce the blob's whole size",
            reason="BLOB_SIZE_MISMATCH",
            digest=digest,
            size_bytes=size_bytes,
        )


def check_complete(digest: str, committed: int, *, size_bytes: int) -> None:
    if committed != size_bytes:
        raise InvalidArgument(
            f"blob {digest} was announced with {size_bytes} bytes and is finished after {committed}: "
            "send all of it before finish_write",
            reason="BLOB_SIZE_MISMATCH",
            digest=digest,
            size_bytes=size_bytes,
            committed_size=committed,
        )


def digest_mismatch(digest: str, actual: str) -> DataLoss:
    return DataLoss(
        f"the bytes sent for blob {digest} have the digest {actual}: nothing was kept, send them again from the start",
        reason="DIGEST_MISMATCH",
        digest=digest,
        actual=actual,
    )


def blob_not_found(digest: str) -> NotFound:
    return NotFound(
        f"there is no blob {digest}: write it first", reason="BLOB_NOT_FOUND", digest=digest
    )
