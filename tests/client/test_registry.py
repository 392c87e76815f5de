"""The catalogue through both clients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import lorry_client
from lorry_client import AsyncClient, Client, names


@pytest.fixture
def client(server: Any) -> Any:
    with Client() as connected:
        yield connected


def test_names() -> None:
    assert names.adapter("intent") == "namespaces/default/adapters/intent"
    assert names.adapter("team/intent") == "namespaces/team/adapters/intent"
    assert names.short("namespaces/team/adapters/intent/versions/3") == "team/intent"
    assert names.reference("intent", "3") == "intent:3"
    assert names.reference("intent", "sha256:ab") == "intent@sha256:ab"
    assert names.reference("intent", "@candidate") == "intent@candidate"
    assert names.reference("intent", "other:3") == "other:3"


@pytest.mark.parametrize("name", ["", "/", "a/", "/a", "a/b/c", "intent@production", "intent:3"])
def test_what_is_no_adapter_name_is_refused(name: str) -> None:
    with pytest.raises(lorry_client.InvalidArgument):
        names.adapter(name)


def test_adapters_from_creation_to_deletion(client: Client) -> None:
    made = client.adapters.create("intent", description="Intents.", labels={"team": "search"})
    assert made.name == "default/intent"
    assert made.create_time is not None
    with pytest.raises(lorry_client.AlreadyExists):
        client.adapters.create("intent")
    changed = client.adapters.update("intent", description="", etag=made.etag)
    assert changed.description == ""
    assert changed.labels == {"team": "search"}
    with pytest.raises(lorry_client.Aborted):
        client.adapters.update("intent", description="x", etag=made.etag)
    with pytest.raises(lorry_client.InvalidArgument):
        client.adapters.update("intent")
    client.adapters.delete("intent")
    with pytest.raises(lorry_client.NotFound):
        client.adapters.get("intent")


def test_lists_go_on_to_the_last_page(client: Client) -> None:
    for number in range(5):
        client.adapters.create(f"a{number}")
    assert [one.name for one in client.adapters.list()] == [f"default/a{n}" for n in range(5)]


def test_a_short_absence_of_the_server_is_not_noticed(client: Client, server: Any) -> None:
    client.adapters.create("intent")
    server.registry.unavailable_times = 2
    assert client.adapters.get("intent").name == "default/intent"


def test_aliases_move_by_number_digest_and_reference(client: Client, folder: Path) -> None:
    first = client.push(folder, "intent").version
    (folder / "README.md").write_text("# better\n")
    second = client.push(folder, "intent", "candidate").version
    assert client.set_alias("intent", "production", 1).targets[0].version == 1
    assert client.set_alias("intent", "production", "2").targets[0].digest == second.digest
    assert client.set_alias("intent", "production", first.digest).targets[0].version == 1
    assert client.set_alias("intent", "production", "intent@candidate").targets[0].version == 2
    moved = client.set_alias("intent", "production", "@candidate")
    with pytest.raises(lorry_client.Aborted):
        client.set_alias("intent", "production", 1, etag="stale")
    assert client.resolve("intent@production").number == 2
    assert client.aliases("intent") == [client.aliases("intent")[0], moved]
    client.delete_alias("intent", "production")
    with pytest.raises(lorry_client.NotFound):
        client.delete_alias("intent", "production")


def test_an_alias_divides_the_requests_and_goes_back(client: Client, folder: Path) -> None:
    client.push(folder, "intent")
    (folder / "README.md").write_text("# better\n")
    second = client.push(folder, "intent").version
    client.set_alias("intent", "production", 1)
    divided = client.set_alias("intent", "production", {1: 90, second.digest: 10}, why="a try")
    assert [(one.version, one.weight) for one in divided.targets] == [(1, 90), (2, 10)]
    with pytest.raises(lorry_client.Aborted):
        client.rollback_alias("intent", "production", etag="stale")
    back = client.rollback_alias("intent", "production", etag=divided.etag, why="no good")
    assert [one.version for one in back.targets] == [1]
    assert client.rollback_alias("intent", "production", 2).targets == divided.targets
    moves = client.alias_moves("intent", "production")
    assert [move.number for move in moves] == [4, 3, 2, 1]
    assert (moves[1].principal, moves[1].why, moves[1].restores) == ("alice", "no good", 1)
    assert (moves[1].from_targets, moves[1].to_targets) == (divided.targets, back.targets)
    assert moves[3].from_targets == ()
    assert moves[3].restores is None


def test_an_alias_does_not_lead_to_another_adapter(client: Client, folder: Path) -> None:
    client.push(folder, "intent")
    client.push(folder, "other")
    with pytest.raises(lorry_client.InvalidArgument) as caught:
        client.set_alias("intent", "production", "other:1")
    assert caught.value.reason == "ALIAS_OF_ANOTHER_ADAPTER"


async def test_awaiting_does_the_same(server: Any, folder: Path) -> None:
    async with AsyncClient() as client:
        await client.adapters.create("a0")
        pushed = await client.push(folder, "intent", "production")
        assert [one.name for one in await client.adapters.list()] == [
            "default/a0",
            "default/intent",
        ]
        assert await client.resolve("intent@production") == pushed.version
        assert await client.versions("intent") == [pushed.version]
        assert (await client.set_alias("intent", "candidate", "1")).name == "candidate"
        assert len(await client.aliases("intent")) == 2
        await client.set_alias("intent", "candidate", {1: 1}, why="again")
        assert (await client.rollback_alias("intent", "candidate", 1)).name == "candidate"
        assert [one.number for one in await client.alias_moves("intent", "candidate")] == [3, 2, 1]
        await client.delete_alias("intent", "candidate")
        with pytest.raises(lorry_client.FailedPrecondition):
            await client.adapters.delete("intent")
        await client.adapters.delete("intent", force=True)
        assert (await client.status()).base == "lorry-tiny"
        assert len(await client.residents()) == 1
        assert (await client.pin("intent")).pinned


def test_bases(server: Any) -> None:
    known = f"sha256:{'b' * 64}"

    async def awaited() -> Any:
        async with AsyncClient() as client:
            return await client.base(known)

    with Client() as client:
        for base in (client.base(known), asyncio.run(awaited())):
            assert (base.fingerprint, base.display_name, base.max_rank) == (known, "lorry-tiny", 64)
        with pytest.raises(lorry_client.NotFound):
            client.base(f"sha256:{'c' * 64}")


def test_a_base_is_made_known(server: Any) -> None:
    """All that is said of it arrives, from both clients."""
    new = lorry_client.NewBase(
        fingerprint=f"sha256:{'d' * 64}",
        display_name="encoder",
        architecture="BertModel",
        quantization="nf4",
        modules={"bert.query": (8, 4)},
        parameters=(
            lorry_client.Parameter("classifier.weight", (0, 8)),
            lorry_client.Parameter("b.weight", (9, 8), "a.weight"),
        ),
        max_rank=16,
        context_length=64,
    )

    async def awaited() -> Any:
        async with AsyncClient() as client:
            return await client.create_base(new)

    with Client() as client:
        for known in (client.create_base(new), asyncio.run(awaited())):
            assert (known.fingerprint, known.display_name) == (new.fingerprint, "encoder")
    for sent in server.registry.bases:
        assert (sent.architecture, sent.quantization) == ("BertModel", "nf4")
        [module] = sent.modules
        assert (module.path, module.in_features, module.out_features) == ("bert.query", 8, 4)
        head, tied = sent.parameters
        assert (head.path, list(head.shape), head.tied_to) == ("classifier.weight", [0, 8], "")
        assert (list(tied.shape), tied.tied_to) == ([9, 8], "a.weight")
        assert (sent.max_rank, sent.context_length) == (16, 64)
    assert len(server.registry.bases) == 2
