"""A registry that runs alone, as a process: how it starts, refuses to start, ends, and survives being killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from lorry.registry.v1 import blob_service_pb2 as bs
from lorry.registry.v1 import blob_service_pb2_grpc, registry_service_pb2_grpc
from lorry.registry.v1 import registry_service_pb2 as rs
from lorry.registry.v1 import resources_pb2 as res
from lorry_client.cli.exit_codes import ExitCode
from lorry_registry.digests import digest_bytes
from lorry_registry.embedded import open_catalogue

from .helpers import KEY, adapter_bytes, make_base

PROGRAM = """
import typer
from lorry_client.cli.main import Root
from lorry_registry.cli import register
app = typer.Typer(cls=Root, pretty_exceptions_enable=False)
register(app)
app()
"""

Launch = Callable[..., "Process"]


class Process:
    """`lorry registry serve` on a home, listening."""

    def __init__(self, home: Path, listen: str = "127.0.0.1:0") -> None:
        self.popen = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                "registry",
                "serve",
                "--home",
                str(home),
                "--listen",
                listen,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stderr is not None
        self.first_line = self.popen.stderr.readline()
        self.address = self.first_line.removeprefix("registry listening on ").strip()
        self.channel = grpc.insecure_channel(self.address)
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(self.channel)
        self.blobs = blob_service_pb2_grpc.BlobServiceStub(self.channel)

    def end(self, number: int) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(20)

    def close(self) -> None:
        self.channel.close()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        assert self.popen.stderr is not None
        self.popen.stderr.close()


@pytest.fixture
def launch(home: Path) -> Iterator[Launch]:
    running: list[Process] = []

    def start(listen: str = "127.0.0.1:0") -> Process:
        running.append(Process(home, listen))
        return running[-1]

    yield start
    for process in running:
        process.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_cleanly(launch: Launch, number: int) -> None:
    process = launch()
    assert process.first_line.startswith("registry listening on 127.0.0.1:")
    assert not process.address.endswith(":0")
    assert list(process.registry.ListBases(rs.ListBasesRequest(), timeout=10).bases) == []
    assert process.end(number) == 0


def test_a_second_server_on_the_port_says_so_in_one_line(launch: Launch) -> None:
    """With the `lorry` command's own exit code: `registry serve` used to exit 1 whatever was wrong."""
    first = launch()
    second = launch(first.address)
    assert second.popen.wait(20) == ExitCode.CONFLICT
    assert second.first_line.startswith(f"error: cannot listen on {first.address}")
    assert "Traceback" not in second.popen.stderr.read()  # type: ignore[union-attr]
    assert first.registry.ListBases(rs.ListBasesRequest(), timeout=10) is not None


def test_a_home_that_cannot_be_written_says_so_in_one_line(home: Path, launch: Launch) -> None:
    home.write_text("a file where the folder should be")
    process = launch()
    assert process.popen.wait(20) == ExitCode.CONFLICT
    assert process.first_line.startswith(f"error: the registry's home {home} cannot be written")
    assert "Traceback" not in process.popen.stderr.read()  # type: ignore[union-attr]


def test_an_address_that_is_none_is_a_wrong_argument(launch: Launch) -> None:
    """`registry serve` used to exit 1 whatever was wrong."""
    process = launch("nowhere")
    assert process.popen.wait(20) == ExitCode.INVALID
    assert process.first_line.startswith("error: --listen is 'nowhere'")


def test_a_push_that_sigterm_meets_ends_well(home: Path, launch: Launch) -> None:
    process = launch()
    data = os.urandom(3 << 20)
    digest = digest_bytes(data)

    def pieces() -> Iterator[bs.WriteBlobRequest]:
        yield bs.WriteBlobRequest(digest=digest, size_bytes=len(data), data=data[: 1 << 20])
        wait_for(process, digest, 1 << 20)
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        yield bs.WriteBlobRequest(write_offset=1 << 20, data=data[1 << 20 : 2 << 20])
        yield bs.WriteBlobRequest(write_offset=2 << 20, data=data[2 << 20 :], finish_write=True)

    assert process.blobs.WriteBlob(pieces(), timeout=20).complete
    assert process.popen.wait(20) == 0


def wait_for(process: Process, digest: str, committed: int) -> None:
    deadline = time.monotonic() + 10
    request = bs.GetBlobWriteRequest(digest=digest)
    while process.blobs.GetBlobWrite(request, timeout=10).committed_size < committed:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_registry_killed_during_a_push_has_no_half_version_and_resumes(
    home: Path, launch: Launch
) -> None:
    """SIGKILL with one file whole, one half sent: afterwards no version, no lost byte, and the push goes on."""
    catalogue = open_catalogue(home)
    catalogue.put_base(make_base())
    catalogue.create_adapter(KEY)
    catalogue.close()
    files = adapter_bytes(64)
    config, weights = files["adapter_config.json"], files["adapter_model.safetensors"]
    digest = digest_bytes(weights)
    half = len(weights) // 2

    process = launch()
    process.blobs.WriteBlob(
        iter(
            [
                bs.WriteBlobRequest(
                    digest=digest_bytes(config),
                    size_bytes=len(config),
                    data=config,
                    finish_write=True,
                )
            ]
        ),
        timeout=10,
    )

    def half_then_die() -> Iterator[bs.WriteBlobRequest]:
        yield bs.WriteBlobRequest(digest=digest, size_bytes=len(weights), data=weights[:half])
        wait_for(process, digest, half)
        process.end(signal.SIGKILL)
        yield bs.WriteBlobRequest(write_offset=half, data=weights[half:], finish_write=True)

    with pytest.raises(grpc.RpcError) as caught:
        process.blobs.WriteBlob(half_then_die(), timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]

    again = launch()
    assert (
        list(again.registry.ListVersions(rs.ListVersionsRequest(parent=KEY.resource_name)).versions)
        == []
    )
    missing = again.blobs.FindMissingBlobs(
        bs.FindMissingBlobsRequest(digests=[digest_bytes(config), digest])
    ).missing
    assert [(m.digest, m.committed_size) for m in missing] == [(digest, half)]
    rest = bs.WriteBlobRequest(
        digest=digest,
        size_bytes=len(weights),
        write_offset=half,
        data=weights[half:],
        finish_write=True,
    )
    assert again.blobs.WriteBlob(iter([rest]), timeout=10).complete
    version = again.registry.CreateVersion(
        rs.CreateVersionRequest(
            parent=KEY.resource_name,
            version=res.Version(
                files=[
                    res.File(path=path, digest=digest_bytes(data), size_bytes=len(data))
                    for path, data in files.items()
                ]
            ),
        ),
        timeout=10,
    )
    assert version.number == 1


def test_what_was_acknowledged_survives_a_kill(home: Path, launch: Launch) -> None:
    process = launch()
    made = process.registry.CreateAdapter(
        rs.CreateAdapterRequest(parent="namespaces/default", adapter_id="x"), timeout=10
    )
    process.end(signal.SIGKILL)
    assert launch().registry.GetAdapter(rs.GetAdapterRequest(name=made.name), timeout=10) == made


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB, where this machine lets one be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "lorry-test", str(folder)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(tiny_disk: Path) -> None:
    """What does not fit is refused; what fits still gets in, and what was there is still there."""
    from lorry_registry.errors import ResourceExhausted

    catalogue = open_catalogue(tiny_disk)
    try:
        catalogue.put_base(make_base())
        catalogue.create_adapter(KEY)
        data = os.urandom(3 << 20)
        digest = digest_bytes(data)
        with pytest.raises(ResourceExhausted) as caught:
            catalogue.blobs.append(digest, size_bytes=len(data), offset=0, data=data)
        assert caught.value.reason == "DISK_FULL"

        def update_until_full() -> None:
            for i in range(10_000):
                catalogue.update_adapter(KEY, description=f"{i} " + "x" * 4000)

        with pytest.raises(ResourceExhausted) as caught:
            update_until_full()
        assert caught.value.reason == "DISK_FULL"
        before = catalogue.get_adapter(KEY)
        (tiny_disk / "uploads" / digest.removeprefix("sha256:")).unlink()
        assert catalogue.update_adapter(KEY, description="room again").etag != before.etag
    finally:
        catalogue.close()
