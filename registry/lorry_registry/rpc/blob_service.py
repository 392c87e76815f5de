"""BlobService over the catalogue's blobs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from lorry.registry.v1 import blob_service_pb2 as pb
from lorry.registry.v1 import blob_service_pb2_grpc
from lorry_registry.blobs import WriteProgress
from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import parse_digest
from lorry_registry.errors import DataLoss, InvalidArgument, OutOfRange

MAX_CHUNK_BYTES = 1 << 20
MAX_DIGESTS = 1000
BLOB_THREADS = 8

P = ParamSpec("P")
T = TypeVar("T")

Context = Any  # grpc.aio.ServicerContext; nothing here needs it


class BlobService(blob_service_pb2_grpc.BlobServiceServicer):
    """Content-addressed bytes. A piece is on its way to disk before the next one is taken from the stream."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        # Threads of its own: a big blob being hashed, and those who wait for it, hold up no look-up.
        self._threads = ThreadPoolExecutor(BLOB_THREADS, thread_name_prefix="lorry-blobs")

    async def FindMissingBlobs(
        self, request: pb.FindMissingBlobsRequest, context: Context
    ) -> pb.FindMissingBlobsResponse:
        if len(request.digests) > MAX_DIGESTS:
            raise InvalidArgument(
                f"{len(request.digests)} digests are asked about, more than {MAX_DIGESTS}: "
                "ask in parts",
                reason="TOO_MANY_DIGESTS",
                max_digests=MAX_DIGESTS,
            )
        missing = await self._in_thread(self._catalogue.missing_blobs, list(request.digests))
        return pb.FindMissingBlobsResponse(
            missing=[
                pb.MissingBlob(digest=digest, committed_size=committed)
                for digest, committed in missing
            ]
        )

    async def WriteBlob(
        self, request_iterator: AsyncIterator[pb.WriteBlobRequest], context: Context
    ) -> pb.WriteBlobResponse:
        blobs = self._catalogue.tenant_blobs
        digest = ""
        size_bytes = 0
        # What came and is not committed yet: some stores take few large appends rather than many small ones.
        pending, start = bytearray(), 0

        async def commit() -> WriteProgress:
            data = bytes(pending)
            pending.clear()
            return await self._in_thread(
                blobs.append, digest, size_bytes=size_bytes, offset=start, data=data
            )

        async for request in request_iterator:
            first = not digest
            if not digest:
                digest = parse_digest(request.digest, what="the first message's digest")
                size_bytes = request.size_bytes
            elif request.digest not in ("", digest):
                raise InvalidArgument(
                    f"one stream writes one blob: it began with {digest} and now names {request.digest[:80]}",
                    reason="DIGEST_CHANGED",
                    digest=digest,
                )
            if len(request.data) > MAX_CHUNK_BYTES:
                raise InvalidArgument(
                    f"a piece has {len(request.data)} bytes, more than {MAX_CHUNK_BYTES}: "
                    "send smaller ones",
                    reason="CHUNK_TOO_LARGE",
                    max_bytes=MAX_CHUNK_BYTES,
                )
            if pending and request.write_offset != start + len(pending):
                await commit()
            if not pending:
                start = request.write_offset
            if first and blobs.part_bytes:
                # Without bytes: says at once where the write stands, and makes no small part.
                progress = await commit()
                if progress.complete:
                    return _progress_to_proto(progress)
            pending += request.data
            if not request.finish_write and len(pending) < blobs.part_bytes:
                continue
            progress = await commit()
            if request.finish_write and not progress.complete:
                progress = await self._in_thread(blobs.finish, digest, size_bytes=size_bytes)
            if progress.complete or request.finish_write:
                return _progress_to_proto(progress)
        if not digest:
            raise InvalidArgument(
                "the stream has no message: begin with the digest and the size",
                reason="STREAM_EMPTY",
            )
        if pending:
            await commit()
        return _progress_to_proto(await self._in_thread(blobs.flush, digest))

    async def GetBlobWrite(
        self, request: pb.GetBlobWriteRequest, context: Context
    ) -> pb.WriteBlobResponse:
        digest = parse_digest(request.digest, what="digest")
        # What is answered is promised: it is flushed first.
        return _progress_to_proto(await self._in_thread(self._catalogue.tenant_blobs.flush, digest))

    async def ReadBlob(
        self, request: pb.ReadBlobRequest, context: Context
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        digest = parse_digest(request.digest, what="digest")
        size = await self._in_thread(self._catalogue.tenant_blobs.size, digest)
        if not 0 <= request.read_offset <= size:
            raise OutOfRange(
                f"read_offset {request.read_offset} is beyond blob {digest}, which has {size} bytes",
                reason="READ_OFFSET_INVALID",
                digest=digest,
                size_bytes=size,
            )
        if request.read_limit < 0:
            raise InvalidArgument(
                f"read_limit {request.read_limit} is negative: leave it 0 to read all",
                reason="READ_LIMIT_INVALID",
            )
        remaining = size - request.read_offset
        if request.read_limit:
            remaining = min(remaining, request.read_limit)
        stream = await self._in_thread(self._catalogue.open_blob, digest)
        with stream:
            stream.seek(request.read_offset)
            while remaining:
                data = await self._in_thread(stream.read, min(remaining, MAX_CHUNK_BYTES))
                if not data:
                    raise DataLoss(
                        f"blob {digest} ends {remaining} bytes too early on the registry's disk: restore its file "
                        "from a backup, or delete it there and push the adapter again",
                        reason="BLOB_TRUNCATED",
                        digest=digest,
                        missing_bytes=remaining,
                    )
                remaining -= len(data)
                yield pb.ReadBlobResponse(data=data)

    async def GetBlobDownload(
        self, request: pb.GetBlobDownloadRequest, context: Context
    ) -> pb.GetBlobDownloadResponse:
        digest = parse_digest(request.digest, what="digest")
        link = await self._in_thread(self._catalogue.tenant_blobs.sign_read, digest)
        answer = pb.GetBlobDownloadResponse(url=link.url)
        answer.expire_time.FromDatetime(link.expire_time)
        return answer

    async def GetBlobUpload(
        self, request: pb.GetBlobUploadRequest, context: Context
    ) -> pb.GetBlobUploadResponse:
        digest = parse_digest(request.digest, what="digest")
        part = await self._in_thread(
            self._catalogue.tenant_blobs.sign_part,
            digest,
            size_bytes=request.size_bytes,
            offset=request.write_offset,
        )
        answer = pb.GetBlobUploadResponse(
            url=part.link.url, part_bytes=part.part_bytes, headers=part.link.headers
        )
        answer.expire_time.FromDatetime(part.link.expire_time)
        return answer

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        caller = copy_context()  # whose rights go along into the thread
        return await loop.run_in_executor(self._threads, partial(caller.run, call, *args, **kwargs))


def _progress_to_proto(progress: WriteProgress) -> pb.WriteBlobResponse:
    return pb.WriteBlobResponse(committed_size=progress.committed_size, complete=progress.complete)
