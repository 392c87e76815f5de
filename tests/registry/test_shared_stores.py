"""Registries that share their stores, PostgreSQL and S3, and pushes to them over connections that break."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lorry_client.aio import AsyncClient
from lorry_client.progress import FileState
from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import digest_bytes
from lorry_registry.embedded import open_catalogue
from lorry_registry.rpc.server import GrpcHost, add_services, create_server

from .helpers import MODULES, adapter_bytes, lora_tensors, make_base, write_folder

PATIENCE = 30.0  # seconds; far beyond what anything here takes
WIDE = dict.fromkeys(MODULES, (2048, 1024))
"""Modules whose adapter of rank 256 has 12 MiB: more than one part of S3's."""


@pytest.fixture
def catalogues(stores: dict[str, str], home: Path) -> Iterator[list[Catalogue]]:
    """Two on the same stores, as two processes have them."""
    opened = [open_catalogue(home, **stores) for _ in range(2)]
    opened[0].put_base(make_base(modules=WIDE))
    yield opened
    for one in opened:
        one.close()


@pytest.fixture
async def hosts(catalogues: list[Catalogue]) -> AsyncIterator[list[GrpcHost]]:
    hosts = []
    for catalogue in catalogues:
        host = create_server(
            "127.0.0.1:0", lambda server, mine=catalogue: add_services(server, mine)
        )
        await host.start()
        hosts.append(host)
    yield hosts
    for host in hosts:
        await host.stop(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "adapter", adapter_bytes(256, tensors=lora_tensors(256, WIDE)))


class Weak:
    """A way to a port that breaks, both ways at once, after so many bytes, and not before something of them is `stored`
    behind it; once for each of `breaks`."""

    def __init__(self, address: str, breaks: list[int], stored: Callable[[], bool]) -> None:
        self._stored = stored
        self._target = address.rsplit(":", 1)
        self._breaks = breaks
        self.broken = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(self._target[0], int(self._target[1]))
        limit = self._breaks.pop(0) if self._breaks else None

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
            passed = 0
            while data := await source.read(1 << 16):
                passed += len(data)
                if up and limit is not None and passed > limit:
                    end = time.monotonic() + PATIENCE
                    while not self._stored() and time.monotonic() < end:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                    self.broken += 1
                    break
                sink.write(data)
                await sink.drain()

        ways = [
            asyncio.create_task(pump(reader, out, up=True)),
            asyncio.create_task(pump(there, writer, up=False)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, out):
            end.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()


async def test_a_push_goes_on_over_a_connection_that_breaks(
    hosts: list[GrpcHost], catalogues: list[Catalogue], folder: Path
) -> None:
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert len(weights) > 10 << 20
    digest = digest_bytes(weights)

    def stored() -> bool:
        return catalogues[0].blobs.progress(digest).committed_size > 0

    way = Weak(hosts[0].address, breaks=[9 << 20, 1 << 20], stored=stored)
    async with AsyncClient(await way.start()) as client:
        pushed = await client.push(folder, "support")
    await way.stop()
    assert way.broken == 2
    states = {file.path: file.state for file in pushed.files}
    assert states["adapter_model.safetensors"] is FileState.RESUMED
    # The other registry has it all.
    version = catalogues[1].resolve("support")
    assert version.digest == pushed.version.digest
    with catalogues[1].open_blob(digest_bytes(weights)) as stream:
        assert stream.read() == weights
    async with AsyncClient(hosts[1].address) as client:
        again = await client.push(folder, "support")
        assert {file.state for file in again.files} == {FileState.EXISTS}
        pulled = await client.pull("support", folder.parent / "pulled")
    assert (Path(pulled.folder) / "adapter_model.safetensors").read_bytes() == weights


async def test_a_push_that_one_registry_began_another_ends(
    hosts: list[GrpcHost], catalogues: list[Catalogue], folder: Path
) -> None:
    weights = (folder / "adapter_model.safetensors").read_bytes()
    digest, half = digest_bytes(weights), len(weights) // 2
    blobs = catalogues[0].blobs
    blobs.append(digest, size_bytes=len(weights), offset=0, data=weights[:half])
    await hosts[0].stop(0)
    async with AsyncClient(hosts[1].address) as client:
        pushed = await client.push(folder, "support")
    states = {file.path: file.state for file in pushed.files}
    assert states["adapter_model.safetensors"] is FileState.RESUMED


async def test_sixteen_pushes_of_one_folder_are_one_version(
    hosts: list[GrpcHost], catalogues: list[Catalogue], folder: Path
) -> None:
    async def push(number: int) -> str:
        async with AsyncClient(hosts[number % 2].address) as client:
            return (await client.push(folder, "support")).reference

    references = await asyncio.gather(*(push(number) for number in range(8)))
    assert len(set(references)) == 1
    assert list(catalogues[0].blobs.leftovers()) == []
    (version,) = catalogues[0].list_versions(catalogues[1].resolve("support").key).items
    assert version.number == 1
