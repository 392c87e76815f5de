"""Bytes straight between a client and the store: by links, where the store signs them, and never less checked."""

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest

from lorry.registry.v1 import blob_service_pb2 as pb
from lorry.registry.v1.blob_service_pb2_grpc import BlobServiceStub
from lorry_client import AsyncClient, Client, Login, LorryError, NotFound, PermissionDenied
from lorry_client.progress import FileState
from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import digest_bytes
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey
from lorry_registry.links import Link
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import create_server
from lorry_registry.rpc.rules import RULES
from lorry_registry.rpc.server import add_services, authority_of
from lorry_registry.s3_objects import S3Objects
from lorry_registry.security import Auth, Security
from lorry_registry.tenant_blobs import TenantBlobs

from .buckets import new_bucket
from .helpers import KEY, adapter_bytes, make_base, write_folder

T = TypeVar("T")
PART_BYTES = 600
DATA = bytes(range(256)) * 12  # six parts
DIGEST = digest_bytes(DATA)


@asynccontextmanager
async def serving(catalogue: Catalogue, auth: Auth = Auth.OFF) -> AsyncIterator[str]:
    gate = Gate(RULES, authority_of(catalogue, Security(auth), "127.0.0.1:0"))
    host = create_server("127.0.0.1:0", lambda s: add_services(s, catalogue), gate=gate)
    await host.start()
    try:
        yield host.address
    finally:
        await host.stop(0)


@pytest.fixture
def bucket(s3: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """A registry with its blobs in S3, in small parts."""
    monkeypatch.setattr(S3Objects, "part_bytes", PART_BYTES)
    opened = open_catalogue(home, blobs=new_bucket())
    opened.put_base(make_base())
    opened.create_adapter(KEY)
    yield opened
    opened.close()


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each message brought to the registry; -1 for each blob that was read through it."""
    seen: list[int] = []
    append, read = TenantBlobs.append, TenantBlobs.open

    def appended(self: TenantBlobs, digest: str, **arguments: Any) -> Any:
        seen.append(len(arguments["data"]))
        return append(self, digest, **arguments)

    def opened(self: TenantBlobs, digest: str) -> Any:
        seen.append(-1)
        return read(self, digest)

    monkeypatch.setattr(TenantBlobs, "append", appended)
    monkeypatch.setattr(TenantBlobs, "open", opened)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_folder(tmp_path / "adapter", adapter_bytes())
    (made / "README.md").write_text("# support")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def beside(address: str, act: Callable[[Client], T], token: str | None = None) -> T:
    """What the blocking client does, while the server's loop goes on."""

    def run() -> T:
        with Client(address, login=Login(token)) as client:
            return act(client)

    return await asyncio.to_thread(run)


def put(link: pb.GetBlobUploadResponse, data: bytes) -> int:
    headers = {**link.headers, "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(link.url, data=data, method="PUT", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def bring(blobs: Any, data: bytes) -> None:
    """Puts `data` as the parts of the blob DIGEST."""
    offset = 0
    while offset < len(data):
        part = await blobs.GetBlobUpload(
            pb.GetBlobUploadRequest(digest=DIGEST, size_bytes=len(data), write_offset=offset)
        )
        piece = data[offset : offset + part.part_bytes]
        assert len(piece) == part.part_bytes
        assert await asyncio.to_thread(put, part, piece) == 200
        assert await asyncio.to_thread(put, part, piece) == 412  # a link makes one object, once
        offset += len(piece)


def finish(blobs: Any) -> Any:
    size = len(DATA)
    last = pb.WriteBlobRequest(digest=DIGEST, size_bytes=size, write_offset=size, finish_write=True)
    return blobs.WriteBlob(iter([last]))


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_no_byte_passes_through_the_registry(
    bucket: Catalogue, passed: list[int], folder: Path, tmp_path: Path
) -> None:
    async with serving(bucket) as address:
        pushed = await beside(address, lambda c: c.push(folder, "support", direct=True))
        assert {file.state for file in pushed.files} == {FileState.PUSHED}
        assert max(file.size_bytes for file in pushed.files) > 2 * PART_BYTES
        pulled = await beside(address, lambda c: c.pull("support", tmp_path / "a", direct=True))
        assert pulled.reference == pushed.reference
        async with AsyncClient(address) as client:
            write_folder(folder, adapter_bytes(seed=7))
            second = await client.push(folder, "support", direct=True)
            assert second.version.number == 2
            await client.pull("support:2", tmp_path / "b", direct=True)
        assert contents(tmp_path / "b") == contents(folder)
        assert contents(tmp_path / "a") != contents(folder)
        assert set(passed) == {0}
        # Asked for nothing of the kind, they come as ever.
        await beside(address, lambda c: c.pull("support:2", tmp_path / "c"))
        assert contents(tmp_path / "c") == contents(folder)
        assert -1 in passed
    assert list(bucket.blobs.leftovers()) == []


async def test_a_push_goes_on_from_what_came_by_either_way(
    bucket: Catalogue, passed: list[int], folder: Path
) -> None:
    data = (folder / "adapter_model.safetensors").read_bytes()
    bucket.blobs.append(digest_bytes(data), size_bytes=len(data), offset=0, data=data[:777])
    async with serving(bucket) as address:
        pushed = await beside(address, lambda c: c.push(folder, "support", direct=True))
    assert FileState.RESUMED in {file.state for file in pushed.files}
    assert set(passed) == {0}


async def test_bytes_of_another_digest_make_no_blob(bucket: Catalogue) -> None:
    async with serving(bucket) as address, grpc.aio.insecure_channel(address) as channel:
        blobs = BlobServiceStub(channel)
        await bring(blobs, DATA[::-1])
        assert not bucket.blobs.progress(DIGEST).complete
        code, said = await refusal(finish(blobs))
        assert code is grpc.StatusCode.DATA_LOSS
        assert digest_bytes(DATA[::-1]) in said
        assert (await refusal(blobs.GetBlobDownload(pb.GetBlobDownloadRequest(digest=DIGEST))))[
            0
        ] is grpc.StatusCode.NOT_FOUND
        assert list(bucket.blobs.leftovers()) == []
        await bring(blobs, DATA)
        assert (await finish(blobs)).complete
    with bucket.blobs.open(DIGEST) as stream:
        assert stream.read() == DATA


async def test_a_part_is_signed_only_where_it_may_follow(bucket: Catalogue) -> None:
    code = grpc.StatusCode
    async with serving(bucket) as address, grpc.aio.insecure_channel(address) as channel:
        blobs = BlobServiceStub(channel)

        def ask(offset: int, size: int = len(DATA), digest: str = DIGEST) -> Any:
            return blobs.GetBlobUpload(
                pb.GetBlobUploadRequest(digest=digest, size_bytes=size, write_offset=offset)
            )

        for offset in (-1, 1, len(DATA)):
            assert (await refusal(ask(offset)))[0] is code.OUT_OF_RANGE
        assert (await refusal(ask(0, size=-1)))[0] is code.INVALID_ARGUMENT
        assert (await refusal(ask(0, size=0)))[0] is code.INVALID_ARGUMENT
        assert (await refusal(ask(0, digest="sha256:no")))[0] is code.INVALID_ARGUMENT
        link = await ask(0)
        asked = parse_qs(urlsplit(link.url).query)
        assert asked["X-Amz-Expires"] == ["900"]
        assert set(asked["X-Amz-SignedHeaders"][0].split(";")) >= {
            "content-length",
            "if-none-match",
        }
        assert 800 < link.expire_time.seconds - datetime.now(UTC).timestamp() < 1000
        await bring(blobs, DATA)
        await finish(blobs)
        assert (await refusal(ask(0)))[0] is code.OUT_OF_RANGE  # it exists


async def test_a_folder_signs_nothing_and_the_stream_serves(
    stocked: Catalogue, passed: list[int], folder: Path, tmp_path: Path
) -> None:
    async with serving(stocked) as address, grpc.aio.insecure_channel(address) as channel:
        await beside(address, lambda c: c.push(folder, "support", direct=True))
        async with AsyncClient(address) as client:
            await client.pull("support", tmp_path / "out", direct=True)
        assert contents(tmp_path / "out") == contents(folder)
        assert max(passed) > 0
        assert -1 in passed
        blobs = BlobServiceStub(channel)
        there = digest_bytes((folder / "README.md").read_bytes())
        for call in (
            blobs.GetBlobDownload(pb.GetBlobDownloadRequest(digest=there)),
            blobs.GetBlobUpload(pb.GetBlobUploadRequest(digest=DIGEST, size_bytes=len(DATA))),
        ):
            code, said = await refusal(call)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "without --direct" in said


async def test_links_are_for_whoever_may_read_and_nobody_else(
    bucket: Catalogue, passed: list[int], folder: Path, tmp_path: Path
) -> None:
    def token(*grants: str) -> str:
        return bucket.access.create_token(grants)[1]

    bucket.create_adapter(AdapterKey("mine", "a"))
    async with serving(bucket, Auth.REQUIRED) as address:
        # Whose uploads are staged at the registry sends them there.
        await beside(
            address, lambda c: c.push(folder, "mine/a", direct=True), token("publish:mine")
        )
        assert max(passed) > 0
        passed.clear()
        await beside(
            address, lambda c: c.pull("mine/a", tmp_path / "out", direct=True), token("read:mine")
        )
        assert contents(tmp_path / "out") == contents(folder)
        assert passed == []
        there = digest_bytes((folder / "README.md").read_bytes())
        async with grpc.aio.insecure_channel(address) as channel:
            blobs = BlobServiceStub(channel)

            async def told(digest: str, *grants: str) -> list[tuple[grpc.StatusCode, str]]:
                metadata = (("authorization", f"Bearer {token(*grants)}"),) if grants else ()
                read = pb.ReadBlobRequest(digest=digest)
                link = pb.GetBlobDownloadRequest(digest=digest)
                answers = [
                    await refusal(blobs.ReadBlob(read, metadata=metadata).__aiter__().__anext__()),
                    await refusal(blobs.GetBlobDownload(link, metadata=metadata)),
                ]
                return [(code, said.replace(digest, "…")) for code, said in answers]

            for grants in (("read:other",), ("publish:other",), ("infer:mine",), ()):
                nothing, same = await told(DIGEST, *grants), await told(there, *grants)
                assert nothing == same
                # The name of the RPC is all that may differ.
                assert same[0][0] is same[1][0]
            part = pb.GetBlobUploadRequest(digest=DIGEST, size_bytes=len(DATA))
            for grant, expected in (
                ("read:*", grpc.StatusCode.PERMISSION_DENIED),
                ("publish:mine", grpc.StatusCode.FAILED_PRECONDITION),
            ):
                metadata = (("authorization", f"Bearer {token(grant)}"),)
                assert (await refusal(blobs.GetBlobUpload(part, metadata=metadata)))[0] is expected


EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code>'
    b"<Message>Request has expired</Message></Error>"
)


class Strict(BaseHTTPRequestHandler):
    """S3 for links that have ended; moto takes them all."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", str(len(EXPIRED)))
        self.end_headers()
        self.wfile.write(EXPIRED)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def strict() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Strict)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_a_link_that_has_ended_is_a_clear_error(
    bucket: Catalogue,
    strict: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(bucket) as address:
        await beside(address, lambda c: c.push(folder, "support"))
        ended = Link(f"{strict}/some/key?X-Amz-Signature=secret", datetime.now(UTC))
        for sign in ("sign_read", "sign_create"):
            monkeypatch.setattr(S3Objects, sign, lambda *_, **__: ended)
        write_folder(folder, adapter_bytes(seed=3))
        for act in (
            lambda c: c.pull("support", tmp_path / "out", direct=True),
            lambda c: c.push(folder, "support", direct=True),
        ):
            with pytest.raises(PermissionDenied, match="Request has expired") as caught:
                await beside(address, act)
            assert caught.value.reason == "LINK_REFUSED"
            assert "secret" not in repr(caught.value.__dict__)
        assert list((tmp_path / "out").iterdir()) == []
        with pytest.raises(NotFound):
            await beside(address, lambda c: c.pull("support:2", tmp_path / "out"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
async def test_only_http_is_followed(
    bucket: Catalogue,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    async with serving(bucket) as address:
        await beside(address, lambda c: c.push(folder, "support"))
        monkeypatch.setattr(S3Objects, "sign_read", lambda *_: Link(url, datetime.now(UTC)))
        with pytest.raises(LorryError) as caught:
            await beside(address, lambda c: c.pull("support", tmp_path / "out", direct=True))
        assert caught.value.reason == "LINK_INVALID"
