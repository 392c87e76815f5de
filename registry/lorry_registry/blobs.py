"""What the registry asks of a place that keeps bytes by their digest.

A blob exists once all its bytes are there and match its digest; until then it is an unfinished write, which any
number of clients may continue. `folder_blobs` is the implementation for one machine; an object store's or a
memory's fits the same protocol (`local_file` is where those would download to a temporary file).
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

MAX_BLOB_BYTES = 64 << 30
"""No adapter file is larger; a size beyond it is a mistake or an attack."""


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """How far a write has come. `complete`: the blob exists, and `committed_size` is its whole size."""

    committed_size: int
    complete: bool


class BlobStore(Protocol):
    """Bytes by digest. Every method is safe to call from any thread and, for shared stores, from any process.

    Digests are well-formed when they arrive here. Where storage itself fails: ResourceExhausted `DISK_FULL` when
    it is full, else the OSError as it is.
    """

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
        """The blob as a file to read while the context lasts; nobody may change it. Raises NotFound."""
        ...
