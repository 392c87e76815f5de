"""A registry elsewhere, over a real socket: the same answers, the same errors, the same bytes."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from lorry.registry.v1 import blob_service_pb2
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, Base, File, LinearModule
from lorry_registry.errors import DataLoss, NotFound, Unavailable
from lorry_registry.rpc.blob_service import BlobService
from lorry_registry.rpc.host import create_server
from lorry_registry.rpc.server import add_services
from lorry_server.registries.local import LocalRegistry
from lorry_server.registries.remote import RemoteRegistry

FINGERPRINT = "sha256:" + "a" * 64
BASE = Base(
    fingerprint=FINGERPRINT,
    display_name="small",
    architecture="LlamaForCausalLM",
    quantization="nf4",
    modules=tuple(LinearModule(f"model.layers.{n}.self_attn.q_proj", 32, 32) for n in range(2)),
    max_rank=64,
    context_length=128,
)


@pytest.fixture
def catalogue(tmp_path):
    opened = open_catalogue(tmp_path / "home")
    yield opened
    opened.close()


@pytest.fixture
async def elsewhere(catalogue):
    host = create_server("127.0.0.1:0", lambda server: add_services(server, catalogue))
    await host.start()
    yield host
    await host.stop(0)


@pytest.fixture
async def remote(elsewhere):
    registry = RemoteRegistry(elsewhere.address)
    await registry.ready()
    yield registry
    await registry.close()


@pytest.fixture
def publish(catalogue, make_adapter):
    """Publishes a small adapter in the catalogue."""

    def publish(name: str, seed: int = 0):
        key = AdapterKey("default", name)
        files = []
        shapes = {m.path: (m.in_features, m.out_features) for m in BASE.modules}
        for path in sorted(make_adapter(shapes, rank=4, seed=seed).iterdir()):
            data = path.read_bytes()
            file = File(path.name, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
            catalogue.blobs.append(file.digest, size_bytes=len(data), offset=0, data=data)
            catalogue.blobs.finish(file.digest, size_bytes=len(data))
            files.append(file)
        catalogue.create_adapter(key)
        return catalogue.publish(key, files)

    return publish


async def test_both_registries_give_the_same_answers(catalogue, remote, publish, tmp_path):
    local = LocalRegistry(catalogue)
    await remote.create_base(BASE)
    assert catalogue.get_base(FINGERPRINT).modules == BASE.modules
    published = [publish(f"task-{n}", seed=n) for n in range(3)]
    for version in published:
        local_meaning = await local.expand(str(version.key))
        assert local_meaning == await remote.expand(str(version.key))
        here = there = local_meaning.choose(None)
        assert (here.digest, here.max_rank, here.base_fingerprint) == (
            version.digest,
            4,
            FINGERPRINT,
        )
        assert here.reference == there.reference
        assert [file.digest for file in here.files] == [file.digest for file in there.files]
    for registry in (local, remote):
        first = await registry.adapters_for(FINGERPRINT, namespace=None, limit=2, page_token="")
        rest = await registry.adapters_for(
            FINGERPRINT, namespace=None, limit=2, page_token=first.next_page_token
        )
        assert [key.adapter_id for key in (*first.keys, *rest.keys)] == [
            "task-0",
            "task-1",
            "task-2",
        ]
        assert not rest.next_page_token
        with pytest.raises(NotFound) as unknown:
            await registry.expand("nobody")
        assert unknown.value.reason == "ADAPTER_NOT_FOUND"


async def test_both_registries_give_the_same_bytes(catalogue, remote, publish, tmp_path):
    catalogue.put_base(BASE)
    for file in publish("task").files:
        LocalRegistry(catalogue).fetch_blob(file, tmp_path / f"local-{file.path}")
        await in_thread(remote.fetch_blob, file, tmp_path / f"remote-{file.path}")
        for where in ("local", "remote"):
            data = (tmp_path / f"{where}-{file.path}").read_bytes()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == file.digest


async def test_bytes_that_are_not_the_files_are_refused(catalogue, remote, publish, tmp_path):
    catalogue.put_base(BASE)
    file = publish("task").files[0]
    (blob,) = (tmp_path / "home" / "blobs").rglob(file.digest.removeprefix("sha256:"))
    blob.chmod(0o644)
    blob.write_bytes(b"something else")
    with pytest.raises(DataLoss) as lost:
        await in_thread(remote.fetch_blob, file, tmp_path / "target")
    assert lost.value.reason == "DIGEST_MISMATCH"
    absent = File("absent", "sha256:" + "0" * 64, 1)
    with pytest.raises(NotFound):
        await in_thread(remote.fetch_blob, absent, tmp_path / "target")


async def test_a_registry_that_is_away_is_unavailable(elsewhere, remote, tmp_path, monkeypatch):
    monkeypatch.setattr("lorry_server.registries.remote._ANSWER_SECONDS", 0.5)
    await elsewhere.stop(0)
    with pytest.raises(Unavailable):
        await remote.expand("task")
    with pytest.raises(Unavailable):
        await in_thread(remote.fetch_blob, File("x", "sha256:" + "0" * 64, 1), tmp_path / "x")
    nobody = RemoteRegistry("127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await nobody.ready()
    await nobody.close()


async def in_thread(function, *arguments):
    return await asyncio.to_thread(function, *arguments)


@pytest.fixture
def slow_blobs(monkeypatch):
    """Makes ReadBlob send pieces of a size, one each `pause` seconds. Before the server: it binds its methods."""
    told: dict = {}

    async def read(self, request, context):
        told["offsets"].append(request.read_offset)
        for at in range(request.read_offset, len(told["data"]), told["piece"]):
            await asyncio.sleep(told["pause"])
            yield blob_service_pb2.ReadBlobResponse(data=told["data"][at : at + told["piece"]])

    monkeypatch.setattr(BlobService, "ReadBlob", read)

    def tell(data: bytes, piece: int, pause: float) -> list[int]:
        told.update(data=data, piece=piece, pause=pause, offsets=[])
        return told["offsets"]

    return tell


async def test_a_read_that_brings_nothing_is_given_up(slow_blobs, elsewhere, tmp_path, monkeypatch):
    """A registry that accepted and then hung held a thread for ten minutes."""
    monkeypatch.setattr("lorry_server.registries.remote._QUIET_SECONDS", 0.3)
    slow_blobs(b"x", 1, 100.0)
    registry = RemoteRegistry(elsewhere.address)
    file = File("x", "sha256:" + "0" * 64, 1)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(in_thread(registry.fetch_blob, file, tmp_path / "x"), 5)
    await registry.close()


async def test_a_read_that_goes_on_may_take_its_time(slow_blobs, elsewhere, tmp_path, monkeypatch):
    """One deadline for a whole file would refuse large files over slow links."""
    monkeypatch.setattr("lorry_server.registries.remote._QUIET_SECONDS", 0.4)
    data = bytes(range(100))
    offsets = slow_blobs(data, 10, 0.1)
    registry = RemoteRegistry(elsewhere.address)
    file = File("x", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    await in_thread(registry.fetch_blob, file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    assert len(offsets) > 1
    assert offsets == sorted(set(offsets))
    await registry.close()


async def test_an_interrupted_read_ends_at_once(slow_blobs, elsewhere, tmp_path):
    """A server that was told to stop waited for the reads of its registry."""
    slow_blobs(b"x", 1, 100.0)
    registry = RemoteRegistry(elsewhere.address)
    file = File("x", "sha256:" + "0" * 64, 1)
    reading = asyncio.ensure_future(in_thread(registry.fetch_blob, file, tmp_path / "x"))
    await asyncio.sleep(0.2)
    registry.interrupt()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(reading, 2)
    with pytest.raises(Unavailable):
        await in_thread(registry.fetch_blob, file, tmp_path / "x")
    await registry.close()
