"""Publishing a folder: what of it is taken, and what a bad connection does to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import lorry_client
from lorry_client import AsyncClient, Client, FileState, _push
from lorry_client._steps import Upload
from lorry_client.progress import Silence

MIB = 1024 * 1024


@pytest.fixture
def client(server: Any) -> Any:
    with Client() as connected:
        yield connected


def states(pushed: lorry_client.Pushed) -> dict[str, str]:
    return {file.path: str(file.state) for file in pushed.files}


def weights_digest(folder: Path) -> str:
    data = (folder / "adapter_model.safetensors").read_bytes()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_push_publishes_every_file_and_moves_the_alias(
    client: Client, server: Any, folder: Path
) -> None:
    pushed = client.push(folder, "team/intent", "production", description="First.")
    assert pushed.reference == f"team/intent@{pushed.version.digest}"
    assert pushed.version.number == 1
    assert pushed.version.description == "First."
    assert pushed.alias is not None
    assert pushed.alias.targets[0].version == 1
    assert set(states(pushed).values()) == {"pushed"}
    assert server.blobs.complete[weights_digest(folder)]
    types = {file.path: file.media_type for file in pushed.version.files}
    assert types["README.md"] == "text/markdown"


def test_a_bad_alias_is_refused_before_anything_is_published(
    client: Client, server: Any, folder: Path
) -> None:
    """The version was published first, and then the command failed over the alias."""
    with pytest.raises(lorry_client.InvalidArgument):
        client.push(folder, "intent", "BAD!")
    assert server.registry.adapters == {}
    assert server.blobs.complete == {}


def test_what_is_there_is_not_sent_again(client: Client, server: Any, folder: Path) -> None:
    first = client.push(folder, "intent")
    streams = server.blobs.streams
    second = client.push(folder, "intent")
    assert second.version == first.version
    assert set(states(second).values()) == {"exists"}
    assert server.blobs.streams == streams


def test_equal_and_empty_files_are_sent_once(client: Client, server: Any, folder: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("")
    pushed = client.push(folder, "intent")
    assert states(pushed)["a.txt"] == "pushed"
    assert states(pushed)["b.txt"] == "exists"


def test_what_does_not_belong_stays_behind(client: Client, folder: Path) -> None:
    for name in ("optimizer.pt", ".hidden.json", "training_args.bin"):
        (folder / name).write_text("x")
    (folder / "checkpoint-5").mkdir()
    pushed = client.push(folder, "intent")
    assert set(pushed.skipped) == {
        "optimizer.pt",
        ".hidden.json",
        "training_args.bin",
        "checkpoint-5",
    }
    assert len(pushed.files) == 3


def test_the_trainers_page_stays_behind_without_a_word(client: Client, folder: Path) -> None:
    """Every push of what our own trainer wrote said that its report was skipped."""
    (folder / "report.html").write_text("<p>")
    pushed = client.push(folder, "intent")
    assert not pushed.skipped
    assert len(pushed.files) == 3


def test_lineage_comes_from_the_folder_or_the_caller(client: Client, folder: Path) -> None:
    lineage = {
        "baseName": "lorry-tiny",
        "metrics": {"test_exact_match": 0.9},
        "datasets": [{"name": "d", "split": "train", "rowCount": "12"}],
    }
    (folder / "lineage.json").write_text(json.dumps(lineage))
    version = client.push(folder, "intent").version
    assert version.lineage.metrics == {"test_exact_match": 0.9}
    assert version.lineage.datasets[0].row_count == 12
    assert "lineage.json" not in {file.path for file in version.files}
    (folder / "README.md").write_text("another")
    own = lorry_client.Lineage(base_name="other", metrics={"loss": 1.5}, parents=("sha256:x",))
    assert client.push(folder, "intent", lineage=own).version.lineage == own


@pytest.mark.parametrize("content", ["{", '{"no_such_field": 1}', "[]", '"x"', "\xff"])
def test_a_broken_lineage_is_refused(client: Client, folder: Path, content: str) -> None:
    (folder / "lineage.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(lorry_client.InvalidArgument) as caught:
        client.push(folder, "intent")
    assert caught.value.reason == "INVALID_LINEAGE"


def test_a_folder_that_is_no_adapter_is_refused(
    client: Client, server: Any, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(lorry_client.NotFound):
        client.push(tmp_path / "nowhere", "intent")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(lorry_client.InvalidArgument, match=r"adapter_config\.json"):
        client.push(folder, "intent")
    assert server.registry.adapters == {}


def test_pickled_weights_are_refused_with_the_way_out(client: Client, folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(lorry_client.InvalidArgument, match="safe_serialization") as caught:
        client.push(folder, "intent")
    assert caught.value.reason == "PICKLED_WEIGHTS"


def test_links_inside_the_folder_are_files_and_links_out_of_it_are_refused(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    (folder / "notes.txt").symlink_to("README.md")
    assert "notes.txt" in states(client.push(folder, "intent"))
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (folder / "more.txt").symlink_to(secret)
    with pytest.raises(lorry_client.InvalidArgument) as caught:
        client.push(folder, "intent")
    assert caught.value.reason == "LINK_OUT_OF_FOLDER"


def test_a_broken_stream_goes_on_from_what_is_committed(
    client: Client, server: Any, folder: Path
) -> None:
    """Each stream breaks after one message of the 2.5 MiB; every byte is sent once all the same."""
    server.blobs.breaks = 2
    pushed = client.push(folder, "intent")
    assert states(pushed)["adapter_model.safetensors"] == "resumed"
    assert server.blobs.bytes_received == sum(path.stat().st_size for path in folder.iterdir())
    assert server.blobs.streams == 5


def test_an_answer_that_is_lost_is_asked_for(client: Client, server: Any, folder: Path) -> None:
    server.blobs.lost_answers = 3
    assert set(states(client.push(folder, "intent")).values()) == {"pushed"}
    assert server.blobs.bytes_received == sum(path.stat().st_size for path in folder.iterdir())


def test_a_write_that_an_earlier_push_left_is_resumed(
    client: Client, server: Any, folder: Path
) -> None:
    data = (folder / "adapter_model.safetensors").read_bytes()
    server.blobs.partial[weights_digest(folder)] = bytearray(data[: MIB + 5])
    pushed = client.push(folder, "intent")
    assert states(pushed)["adapter_model.safetensors"] == "resumed"
    assert server.blobs.complete[weights_digest(folder)] == data


def test_a_rival_that_writes_first_costs_a_question_only(
    client: Client, server: Any, folder: Path
) -> None:
    server.blobs.rivals = 1
    assert client.push(folder, "intent").version.number == 1


def test_a_spoilt_beginning_is_written_again(client: Client, server: Any, folder: Path) -> None:
    """What an earlier push left was another state of the file: the digest fails once, then the file is sent whole."""
    server.blobs.partial[weights_digest(folder)] = bytearray(MIB)
    pushed = client.push(folder, "intent")
    assert pushed.version.number == 1


def test_a_connection_that_never_holds_ends_in_an_error(
    client: Client, server: Any, folder: Path
) -> None:
    server.blobs.away = True
    with pytest.raises(lorry_client.Unavailable):
        client.push(folder, "intent")
    assert server.registry.adapters == {}


class Shrinks(Silence):
    """Cuts the weights short as soon as the first of them moves."""

    def __init__(self, folder: Path) -> None:
        self.weights = folder / "adapter_model.safetensors"

    def at(self, path: str, done_bytes: int) -> None:
        if path == self.weights.name and done_bytes == MIB:
            self.weights.write_bytes(b"short")


def test_a_file_that_changes_meanwhile_is_an_error(client: Client, folder: Path) -> None:
    with pytest.raises(lorry_client.FailedPrecondition) as caught:
        client.push(folder, "intent", progress=Shrinks(folder))
    assert caught.value.reason == "FILE_CHANGED"


def test_a_refused_first_version_leaves_no_adapter_behind(
    client: Client, server: Any, folder: Path
) -> None:
    server.registry.refuse_versions = True
    with pytest.raises(lorry_client.InvalidArgument) as caught:
        client.push(folder, "intent")
    assert caught.value.reason == "NON_FINITE_VALUES"
    assert server.registry.adapters == {}
    client.adapters.create("intent")
    with pytest.raises(lorry_client.InvalidArgument):
        client.push(folder, "intent")
    assert list(server.registry.adapters) == ["namespaces/default/adapters/intent"]


class Recorder(Silence):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def start(self, path: str, size_bytes: int) -> None:
        self.events.append(("start", path, size_bytes))

    def at(self, path: str, done_bytes: int) -> None:
        self.events.append(("at", path, done_bytes))

    def finish(self, path: str, state: FileState) -> None:
        self.events.append(("finish", path, state))


def test_progress_is_told_of_every_file(client: Client, folder: Path) -> None:
    recorder = Recorder()
    client.push(folder, "intent", progress=recorder)
    kinds = [event[0] for event in recorder.events]
    assert kinds[:3] == ["start"] * 3
    weights = [event for event in recorder.events if event[1] == "adapter_model.safetensors"]
    assert [event[2] for event in weights] == [
        2 * MIB + MIB // 2,
        MIB,
        2 * MIB,
        2 * MIB + MIB // 2,
        FileState.PUSHED,
    ]


async def test_awaiting_resumes_and_reports_too(server: Any, folder: Path) -> None:
    server.blobs.breaks = 2
    recorder = Recorder()
    async with AsyncClient() as client:
        pushed = await client.push(folder, "intent", progress=recorder)
        assert states(pushed)["adapter_model.safetensors"] == "resumed"
        assert (await client.push(folder, "intent")).files[0].state == FileState.EXISTS
        (folder / "adapter_model.safetensors").write_bytes(bytes(3 * MIB))
        with pytest.raises(lorry_client.FailedPrecondition):
            await client.push(folder, "intent", progress=Shrinks(folder))
    assert len([event for event in recorder.events if event[0] == "finish"]) == 3


async def test_a_push_can_be_cancelled(server: Any, folder: Path) -> None:
    server.blobs.away = True
    async with AsyncClient() as client:
        task = asyncio.create_task(client.push(folder, "intent"))
        assert await asyncio.to_thread(server.blobs.arrived.wait, 5)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, lorry_client.Unavailable)):
            await task
    assert server.registry.adapters == {}


async def test_a_write_that_the_server_ends_under_a_piece_is_resumed(
    server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc.aio said INTERNAL where a piece met a stream that had just ended, and the push gave up."""
    whole = _push.blobs.write
    broken: list[_push._Pieces] = []

    def write(pieces: _push._Pieces, size_bytes: int) -> Upload:
        upload = whole(pieces, size_bytes)
        if broken:
            return upload
        broken.append(pieces)

        async def ends_early(pieces: Any, **_: Any) -> Any:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.INTERNAL,
                grpc.aio.Metadata(),
                grpc.aio.Metadata(),
                "Internal error from Core",
                'Failed "execute_batch": (<grpc._cython.cygrpc.SendMessageOperation object>,)',
            )

        return replace(upload, method=lambda stubs: ends_early)

    monkeypatch.setattr(_push.blobs, "write", write)
    async with AsyncClient() as client:
        pushed = await client.push(folder, "intent")
    assert broken
    assert server.blobs.complete[weights_digest(folder)]
    assert set(states(pushed).values()) == {"pushed"}
