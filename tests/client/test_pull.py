"""Fetching a version: verified, all or nothing, and never outside the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lorry_client
from lorry_client import AsyncClient, Client


@pytest.fixture
def client(server: Any) -> Any:
    with Client() as connected:
        yield connected


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def states(pulled: lorry_client.Pulled) -> set[str]:
    return {str(file.state) for file in pulled.files}


def test_a_pull_gives_back_what_was_pushed(client: Client, folder: Path, tmp_path: Path) -> None:
    (folder / "empty.txt").write_text("")
    pushed = client.push(folder, "intent")
    target = tmp_path / "deep" / "target"
    pulled = client.pull("intent:1", target)
    assert pulled.reference == pushed.reference
    assert contents(target) == contents(folder)
    assert states(pulled) == {"pulled"}
    (target / "README.md").write_text("spoilt!!\n")
    assert states(client.pull("intent", target)) == {"pulled", "exists"}
    assert contents(target) == contents(folder)


def test_bytes_that_do_not_match_leave_nothing(
    client: Client, server: Any, folder: Path, tmp_path: Path
) -> None:
    client.push(folder, "intent")
    server.blobs.damaged = True
    with pytest.raises(lorry_client.DataLoss) as caught:
        client.pull("intent", tmp_path / "target")
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert list((tmp_path / "target").iterdir()) == []


def test_a_broken_read_goes_on_where_it_stopped(
    client: Client, server: Any, folder: Path, tmp_path: Path
) -> None:
    client.push(folder, "intent")
    server.blobs.breaks = 4
    pulled = client.pull("intent", tmp_path / "target")
    assert contents(tmp_path / "target") == contents(folder)
    assert "resumed" in states(pulled)


@pytest.mark.parametrize(
    "name", ["../evil.json", "/tmp/evil.json", "a/b.json", "..", "", "C:evil", "a\\b"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(
    client: Client, server: Any, folder: Path, tmp_path: Path, name: str
) -> None:
    client.push(folder, "intent")
    server.registry.versions["namespaces/default/adapters/intent"][0].files[0].path = name
    with pytest.raises(lorry_client.InvalidArgument) as caught:
        client.pull("intent", tmp_path / "target")
    assert caught.value.reason == "UNSAFE_FILE_NAME"
    assert not (tmp_path / "target").exists()


def test_a_link_in_the_target_is_replaced_and_not_followed(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    client.push(folder, "intent")
    outside = tmp_path / "outside.md"
    outside.write_text("mine")
    target = tmp_path / "target"
    target.mkdir()
    (target / "README.md").symlink_to(outside)
    client.pull("intent", target)
    assert outside.read_text() == "mine"
    assert not (target / "README.md").is_symlink()


def test_a_target_that_cannot_be_written_is_a_clear_error(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    client.push(folder, "intent")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(lorry_client.LorryError, match="file"):
        client.pull("intent", tmp_path / "file")


async def test_awaiting_verifies_too(server: Any, folder: Path, tmp_path: Path) -> None:
    async with AsyncClient() as client:
        await client.push(folder, "intent")
        server.blobs.breaks = 2
        await client.pull("intent", tmp_path / "target")
        assert contents(tmp_path / "target") == contents(folder)
        server.blobs.damaged = True
        with pytest.raises(lorry_client.DataLoss):
            await client.pull("intent", tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
