"""The calls of the blob service: which bytes are missing, how far a write has come, both streams, and links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lorry.registry.v1 import blob_service_pb2 as pb
from lorry_client._calls.requests import LOOKUP_SECONDS
from lorry_client._steps import Call, Download, Upload

# A link slower than this makes a transfer's deadline pass; what is committed by then is not sent again.
SLOWEST_BYTES_PER_SECOND = 128 * 1024


def find_missing(digests: Sequence[str]) -> Call[dict[str, int]]:
    """The digests that have no blob yet, with what is committed of each."""
    return Call(
        lambda stubs: stubs.blobs.FindMissingBlobs,
        pb.FindMissingBlobsRequest(digests=digests),
        lambda answer: {blob.digest: blob.committed_size for blob in answer.missing},
        LOOKUP_SECONDS,
    )


def get_write(digest: str) -> Call[pb.WriteBlobResponse]:
    """How far a write has come."""
    return Call(
        lambda stubs: stubs.blobs.GetBlobWrite,
        pb.GetBlobWriteRequest(digest=digest),
        lambda answer: answer,
        LOOKUP_SECONDS,
    )


def write(pieces: Iterator[pb.WriteBlobRequest], size_bytes: int) -> Upload:
    """Writes a blob from where its first piece says."""
    return Upload(lambda stubs: stubs.blobs.WriteBlob, pieces, _transfer_seconds(size_bytes))


def read(digest: str, offset: int, size_bytes: int, take: Callable[[bytes], None]) -> Download:
    """Reads a blob from an offset to its end."""
    return Download(
        lambda stubs: stubs.blobs.ReadBlob,
        pb.ReadBlobRequest(digest=digest, read_offset=offset),
        lambda answer: take(answer.data),
        _transfer_seconds(size_bytes),
    )


def download_link(digest: str) -> Call[pb.GetBlobDownloadResponse]:
    """A link to a blob in the registry's store."""
    return Call(
        lambda stubs: stubs.blobs.GetBlobDownload,
        pb.GetBlobDownloadRequest(digest=digest),
        lambda answer: answer,
        LOOKUP_SECONDS,
    )


def upload_link(digest: str, size_bytes: int, offset: int) -> Call[pb.GetBlobUploadResponse]:
    """A link for a blob's next part."""
    return Call(
        lambda stubs: stubs.blobs.GetBlobUpload,
        pb.GetBlobUploadRequest(digest=digest, size_bytes=size_bytes, write_offset=offset),
        lambda answer: answer,
        LOOKUP_SECONDS,
    )


def _transfer_seconds(size_bytes: int) -> float:
    return LOOKUP_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
