"""The services over a real socket: what they answer, and the code and reason of everything that goes wrong."""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from lorry.registry.v1 import (
    blob_service_pb2,
    blob_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    resources_pb2,
    watch_service_pb2,
    watch_service_pb2_grpc,
)
from lorry_registry import errors
from lorry_registry.catalogue import Catalogue
from lorry_registry.config import parse_address
from lorry_registry.digests import digest_bytes
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_registry.rpc import registry_service
from lorry_registry.rpc.errors import CODES, to_lorry_error, to_status
from lorry_registry.rpc.server import GrpcHost, add_services, create_server

from .helpers import KEY, adapter_bytes, fingerprint, lora_config, upload

rs = registry_service_pb2
bs = blob_service_pb2
res = resources_pb2
Code = grpc.StatusCode

NAME = KEY.resource_name
DATA = bytes(range(256)) * 5000
DIGEST = digest_bytes(DATA)
CHUNK = 1 << 20


class Client:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.blobs = blob_service_pb2_grpc.BlobServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)


@pytest.fixture
async def host(stocked: Catalogue) -> AsyncIterator[GrpcHost]:
    host = create_server("127.0.0.1:0", lambda server: add_services(server, stocked))
    await host.start()
    yield host
    await host.stop(0)


@pytest.fixture
async def client(host: GrpcHost) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(host.address) as channel:
        yield Client(channel)


async def refused(call: Any) -> tuple[Code, str, Mapping[str, str]]:
    """Code, reason and metadata of a call that must fail; every failure carries an ErrorInfo of ours."""

    async def finish() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish()
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "lorry"
    assert "Traceback" not in caught.value.details()
    return caught.value.code(), info.reason, dict(info.metadata)


def pieces(
    data: bytes, *, digest: str = "", offset: int = 0, step: int = CHUNK, finish: bool = True
) -> AsyncIterator[Any]:
    async def stream() -> AsyncIterator[Any]:
        for start in range(offset, max(len(data), offset + 1), step):
            yield bs.WriteBlobRequest(
                digest=digest or digest_bytes(data) if start == offset else "",
                size_bytes=len(data) if start == offset else 0,
                write_offset=start,
                data=data[start : start + step],
                finish_write=finish and start + step >= len(data),
            )

    return stream()


# Blobs.


async def test_a_blob_goes_up_and_comes_down(client: Client) -> None:
    missing = await client.blobs.FindMissingBlobs(
        bs.FindMissingBlobsRequest(digests=[DIGEST, fingerprint("0")])
    )
    assert [m.digest for m in missing.missing] == [DIGEST, fingerprint("0")]
    answer = await client.blobs.WriteBlob(pieces(DATA))
    assert (answer.committed_size, answer.complete) == (len(DATA), True)
    for offset, limit in ((0, 0), (7, 0), (7, 100), (len(DATA), 0), (0, 1 << 40)):
        request = bs.ReadBlobRequest(digest=DIGEST, read_offset=offset, read_limit=limit)
        got = [m.data async for m in client.blobs.ReadBlob(request)]
        assert b"".join(got) == DATA[offset : offset + limit if limit else None]
        assert all(len(piece) <= CHUNK for piece in got)
    # Once more: the stream ends at the first message.
    assert (await client.blobs.WriteBlob(pieces(DATA))).complete
    missing = await client.blobs.FindMissingBlobs(bs.FindMissingBlobsRequest(digests=[DIGEST]))
    assert not missing.missing


async def test_a_write_that_stops_half_way_resumes(client: Client) -> None:
    half = await client.blobs.WriteBlob(
        pieces(DATA[:600_000], digest=DIGEST, step=200_000, finish=False)
    )
    assert (half.committed_size, half.complete) == (600_000, False)
    state = await client.blobs.GetBlobWrite(bs.GetBlobWriteRequest(digest=DIGEST))
    assert state == half
    code, reason, metadata = await refused(client.blobs.WriteBlob(pieces(DATA)))
    assert (code, reason) == (Code.OUT_OF_RANGE, "WRITE_OFFSET_MISMATCH")
    assert metadata["committed_size"] == "600000"
    assert (await client.blobs.WriteBlob(pieces(DATA, offset=600_000))).complete


async def test_what_a_vanished_client_sent_is_kept(client: Client) -> None:
    call = client.blobs.WriteBlob()
    await call.write(bs.WriteBlobRequest(digest=DIGEST, size_bytes=len(DATA), data=DATA[:1000]))
    request = bs.GetBlobWriteRequest(digest=DIGEST)
    while not (await client.blobs.GetBlobWrite(request)).committed_size:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    call.cancel()
    state = await client.blobs.GetBlobWrite(request)
    assert (state.committed_size, state.complete) == (1000, False)


async def test_wrong_bytes_are_data_loss(client: Client) -> None:
    wrong = b"x" * len(DATA)
    call = client.blobs.WriteBlob(pieces(wrong, digest=DIGEST))
    assert (await refused(call))[:2] == (Code.DATA_LOSS, "DIGEST_MISMATCH")
    state = await client.blobs.GetBlobWrite(bs.GetBlobWriteRequest(digest=DIGEST))
    assert (state.committed_size, state.complete) == (0, False)


async def test_writes_without_sense_are_refused(client: Client) -> None:
    async def requests(*messages: Any) -> AsyncIterator[Any]:
        for message in messages:
            yield message

    W = bs.WriteBlobRequest
    for messages, reason in (
        ((), "STREAM_EMPTY"),
        ((W(size_bytes=1, data=b"x"),), "DIGEST_INVALID"),
        ((W(digest="md5:1", size_bytes=1),), "DIGEST_INVALID"),
        ((W(digest=DIGEST, size_bytes=-1),), "BLOB_SIZE_INVALID"),
        ((W(digest=DIGEST, size_bytes=1, data=b"xy"),), "BLOB_SIZE_MISMATCH"),
        ((W(digest=DIGEST, size_bytes=9, data=b"x", finish_write=True),), "BLOB_SIZE_MISMATCH"),
        (
            (W(digest=fingerprint("1"), size_bytes=1 << 30, data=b"x" * (CHUNK + 1)),),
            "CHUNK_TOO_LARGE",
        ),
        ((W(digest=fingerprint("2"), size_bytes=9), W(digest=DIGEST)), "DIGEST_CHANGED"),
    ):
        code, got, _ = await refused(client.blobs.WriteBlob(requests(*messages)))
        assert (code, got) == (Code.INVALID_ARGUMENT, reason)


async def test_reads_without_sense_are_refused(client: Client) -> None:
    await client.blobs.WriteBlob(pieces(DATA))
    R = bs.ReadBlobRequest
    for request, code, reason in (
        (R(digest=fingerprint("0")), Code.NOT_FOUND, "BLOB_NOT_FOUND"),
        (R(digest="../../etc/passwd"), Code.INVALID_ARGUMENT, "DIGEST_INVALID"),
        (R(digest=DIGEST, read_offset=len(DATA) + 1), Code.OUT_OF_RANGE, "READ_OFFSET_INVALID"),
        (R(digest=DIGEST, read_offset=-1), Code.OUT_OF_RANGE, "READ_OFFSET_INVALID"),
        (R(digest=DIGEST, read_limit=-1), Code.INVALID_ARGUMENT, "READ_LIMIT_INVALID"),
    ):
        assert (await refused(client.blobs.ReadBlob(request)))[:2] == (code, reason)
    many = bs.FindMissingBlobsRequest(digests=[DIGEST] * 1001)
    assert (await refused(client.blobs.FindMissingBlobs(many)))[1] == "TOO_MANY_DIGESTS"


async def test_a_blob_cut_short_on_disk_is_data_loss(
    client: Client, stocked: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that found the file shorter than it began span for ever, sending empty pieces."""
    await client.blobs.WriteBlob(pieces(DATA))
    monkeypatch.setattr(stocked.blobs, "size", lambda digest: len(DATA) + 10)
    call = client.blobs.ReadBlob(bs.ReadBlobRequest(digest=DIGEST))
    assert (await asyncio.wait_for(refused(call), 10))[:2] == (Code.DATA_LOSS, "BLOB_TRUNCATED")


async def test_a_full_disk_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("lorry_registry.folder_blobs.os.write", full)
        call = client.blobs.WriteBlob(pieces(DATA))
        assert (await refused(call))[:2] == (Code.RESOURCE_EXHAUSTED, "DISK_FULL")
    assert (await client.blobs.WriteBlob(pieces(DATA))).complete


async def test_writers_of_one_blob_cooperate(client: Client) -> None:
    async def push() -> None:
        state = await client.blobs.GetBlobWrite(bs.GetBlobWriteRequest(digest=DIGEST))
        while not state.complete:
            try:
                state = await client.blobs.WriteBlob(
                    pieces(DATA, offset=state.committed_size, step=50_000)
                )
            except grpc.aio.AioRpcError as error:
                # INTERNAL is grpc.aio's own, for a piece that met a stream which had just ended.
                if error.code() != Code.OUT_OF_RANGE and not (
                    error.code() == Code.INTERNAL
                    and "SendMessageOperation" in error.debug_error_string()
                ):
                    raise
                state = await client.blobs.GetBlobWrite(bs.GetBlobWriteRequest(digest=DIGEST))

    await asyncio.gather(*(push() for _ in range(6)))
    got = [m.data async for m in client.blobs.ReadBlob(bs.ReadBlobRequest(digest=DIGEST))]
    assert b"".join(got) == DATA


# The catalogue.


async def push(
    client: Client, files: Mapping[str, bytes], *, media_type: str = "x/y", **version: Any
) -> Any:
    for data in set(files.values()):
        await client.blobs.WriteBlob(pieces(data))
    manifest = [
        res.File(path=path, digest=digest_bytes(data), size_bytes=len(data), media_type=media_type)
        for path, data in files.items()
    ]
    request = rs.CreateVersionRequest(parent=NAME, version=res.Version(files=manifest, **version))
    return await client.registry.CreateVersion(request)


async def test_publish_resolve_and_move_an_alias(client: Client) -> None:
    lineage = res.Lineage(
        recipe="r: 4",
        datasets=[res.Dataset(name="d", split="train", row_count=3)],
        metrics={"exact": 0.5},
        producer="tests",
    )
    first = await push(client, adapter_bytes(), lineage=lineage, description="first")
    assert first.name == f"{NAME}/versions/1"
    assert first.lineage.metrics == {"exact": 0.5}
    assert first.lineage.base_fingerprint == fingerprint("a")
    assert first.files[0].media_type == "x/y"
    assert (first.spec.peft_type, first.spec.max_rank, first.spec.module_count) == ("LORA", 4, 4)
    second = await push(client, adapter_bytes(seed=1))
    registry = client.registry
    assert await registry.GetVersion(rs.GetVersionRequest(name=second.name)) == second
    listed = await registry.ListVersions(rs.ListVersionsRequest(parent=NAME))
    assert [v.number for v in listed.versions] == [2, 1]

    alias = res.Alias(
        name=f"{NAME}/aliases/production", targets=[res.AliasTarget(version=1)], etag="*"
    )
    made = await registry.SetAlias(rs.SetAliasRequest(alias=alias))
    assert made.targets[0].digest == first.digest
    resolve = rs.ResolveReferenceRequest
    assert await registry.ResolveReference(resolve(reference="support")) == first
    moved = res.Alias(name=made.name, targets=[res.AliasTarget(version=2)], etag=made.etag)
    await registry.SetAlias(rs.SetAliasRequest(alias=moved))
    assert await registry.ResolveReference(resolve(reference="support")) == second
    got = await registry.GetAlias(rs.GetAliasRequest(name=made.name))
    assert got.targets[0].version == 2
    aliases = await registry.ListAliases(rs.ListAliasesRequest(parent=NAME))
    assert list(aliases.aliases) == [got]
    assert (await refused(registry.SetAlias(rs.SetAliasRequest(alias=moved))))[:2] == (
        Code.ABORTED,
        "ETAG_MISMATCH",
    )
    await registry.DeleteAlias(rs.DeleteAliasRequest(name=made.name, etag=got.etag))
    assert (await refused(registry.GetAlias(rs.GetAliasRequest(name=made.name))))[:2] == (
        Code.NOT_FOUND,
        "ALIAS_NOT_FOUND",
    )


async def test_an_alias_keeps_its_moves_and_goes_back(client: Client) -> None:
    registry = client.registry
    first = await push(client, adapter_bytes(), lineage=res.Lineage(recipe="r: 4"))
    await push(client, adapter_bytes(seed=1))
    for number in (1, 2):
        alias = res.Alias(
            name=f"{NAME}/aliases/production", targets=[res.AliasTarget(version=number)]
        )
        got = await registry.SetAlias(rs.SetAliasRequest(alias=alias))
    back = await registry.RollbackAlias(
        rs.RollbackAliasRequest(name=got.name, etag=got.etag, why="a test")
    )
    assert back.targets[0].version == 1
    listed = await registry.ListAliasMoves(rs.ListAliasMovesRequest(parent=got.name, page_size=2))
    last, second_move = listed.alias_moves
    assert last.name == f"{got.name}/moves/3"
    assert (last.why, last.principal, last.restores) == ("a test", "anonymous", 1)
    assert (last.from_targets[0].version, last.to_targets[0].digest) == (2, first.digest)
    assert second_move.move_time.ToDatetime() <= last.move_time.ToDatetime()
    rest = await registry.ListAliasMoves(
        rs.ListAliasMovesRequest(parent=got.name, page_token=listed.next_page_token)
    )
    assert [move.number for move in rest.alias_moves] == [1]
    assert list(rest.alias_moves[0].from_targets) == []
    stale = rs.RollbackAliasRequest(name=got.name, etag=got.etag)
    assert (await refused(registry.RollbackAlias(stale)))[:2] == (Code.ABORTED, "ETAG_MISMATCH")


async def test_versions_are_deprecated_and_blocked(client: Client) -> None:
    registry = client.registry
    lineage = res.Lineage(recipe="r: 4")
    first = await push(client, adapter_bytes(), lineage=lineage)
    second = await push(client, adapter_bytes(seed=1))
    assert first.state == res.VERSION_STATE_ACTIVE
    assert not first.HasField("deprecation")
    told = res.Deprecation(reason="old", replacement="support:2")
    deprecated = await registry.DeprecateVersion(
        rs.DeprecateVersionRequest(name=first.name, deprecation=told)
    )
    assert (deprecated.state, deprecated.deprecation) == (res.VERSION_STATE_DEPRECATED, told)
    blocked = await registry.BlockVersion(rs.BlockVersionRequest(name=first.name, why="leaks"))
    assert (blocked.state, blocked.block_reason) == (res.VERSION_STATE_BLOCKED, "leaks")
    assert blocked == await registry.GetVersion(rs.GetVersionRequest(name=first.name))
    pointing = rs.SetAliasRequest(
        alias=res.Alias(name=f"{NAME}/aliases/p", targets=[res.AliasTarget(version=1)])
    )
    code, reason, about = await refused(registry.SetAlias(pointing))
    assert (code, reason, about["why"]) == (Code.FAILED_PRECONDITION, "VERSION_BLOCKED", "leaks")
    unblocked = await registry.UnblockVersion(rs.UnblockVersionRequest(name=first.name))
    # A deprecation from before holds again.
    assert (unblocked.state, unblocked.deprecation) == (res.VERSION_STATE_DEPRECATED, told)
    active = await registry.UndeprecateVersion(rs.UndeprecateVersionRequest(name=first.name))
    assert active.state == res.VERSION_STATE_ACTIVE
    assert not active.HasField("deprecation")
    await registry.SetAlias(pointing)
    for request, reason in (
        (rs.BlockVersionRequest(name=second.name), "REASON_MISSING"),
        (rs.BlockVersionRequest(name=second.name, why="x" * 501), "FIELD_TOO_LONG"),
    ):
        assert (await refused(registry.BlockVersion(request)))[:2] == (
            Code.INVALID_ARGUMENT, reason
        )  # fmt: skip
    no_reference = res.Deprecation(reason="old", replacement="no reference!")
    request = rs.DeprecateVersionRequest(name=second.name, deprecation=no_reference)
    assert (await refused(registry.DeprecateVersion(request)))[0] == Code.INVALID_ARGUMENT
    unknown = rs.BlockVersionRequest(name=f"{NAME}/versions/9", why="x")
    assert (await refused(registry.BlockVersion(unknown)))[0] == Code.NOT_FOUND


async def test_what_is_said_of_a_version_changes_and_nothing_else(client: Client) -> None:
    registry = client.registry
    first = await push(client, adapter_bytes(), lineage=res.Lineage(recipe="r: 4"))
    assert first.etag
    wanted = res.Version(name=first.name, labels={"team": "x"}, annotations={"n": "1"})
    changed = await registry.UpdateVersion(
        rs.UpdateVersionRequest(version=wanted, update_mask=FieldMask(paths=["labels"]))
    )
    assert (changed.labels, changed.annotations) == ({"team": "x"}, {})
    assert (changed.digest, changed.lineage) == (first.digest, first.lineage)
    assert changed.etag != first.etag
    assert changed.update_time.ToDatetime() > first.create_time.ToDatetime()
    stale = rs.UpdateVersionRequest(
        version=res.Version(name=first.name, description="lost", etag=first.etag)
    )
    assert (await refused(registry.UpdateVersion(stale)))[:2] == (Code.ABORTED, "ETAG_MISMATCH")
    everything = rs.UpdateVersionRequest(
        version=res.Version(name=first.name, description="d"), update_mask=FieldMask(paths=["*"])
    )
    emptied = await registry.UpdateVersion(everything)
    assert (emptied.description, emptied.labels) == ("d", {})
    for path in ("files", "lineage", "lineage.recipe", "digest"):
        request = rs.UpdateVersionRequest(version=wanted, update_mask=FieldMask(paths=[path]))
        assert (await refused(registry.UpdateVersion(request)))[:2] == (
            Code.INVALID_ARGUMENT, "UPDATE_MASK_INVALID"
        )  # fmt: skip
    long = res.Version(name=first.name, annotations={str(n): "x" * (16 << 10) for n in range(5)})
    too_long = rs.UpdateVersionRequest(version=long)
    assert (await refused(registry.UpdateVersion(too_long)))[1] == "FIELD_TOO_LONG"
    adapter = res.Adapter(name=NAME, annotations={"owner": "a"})
    updated = await registry.UpdateAdapter(rs.UpdateAdapterRequest(adapter=adapter))
    assert updated.annotations == {"owner": "a"}
    assert await registry.GetAdapter(rs.GetAdapterRequest(name=NAME)) == updated


async def test_evaluations_are_added_and_stay(client: Client) -> None:
    registry = client.registry
    version = await push(client, adapter_bytes(), lineage=res.Lineage(recipe="r: 4"))
    for number in (1, 2):
        evaluation = res.Evaluation(
            title=f"run {number}",
            metrics={"exact": number / 4},
            dataset=res.Dataset(name="held-out", digest=fingerprint("d")),
        )
        made = await registry.CreateEvaluation(
            rs.CreateEvaluationRequest(parent=version.name, evaluation=evaluation)
        )
        assert made.name == f"{version.name}/evaluations/{number}"
        assert (made.principal, made.metrics) == ("anonymous", {"exact": number / 4})
    page = await registry.ListEvaluations(
        rs.ListEvaluationsRequest(parent=version.name, page_size=1)
    )
    assert list(page.evaluations) == [made]
    rest = await registry.ListEvaluations(
        rs.ListEvaluationsRequest(parent=version.name, page_token=page.next_page_token)
    )
    assert [one.title for one in rest.evaluations] == ["run 1"]
    unchanged = await registry.GetVersion(rs.GetVersionRequest(name=version.name))
    assert (unchanged.digest, unchanged.etag) == (version.digest, version.etag)
    for wrong in (
        res.Evaluation(title="", metrics={"exact": 1}),
        res.Evaluation(title="t"),
        res.Evaluation(title="t", metrics={"exact": float("nan")}),
        res.Evaluation(title="t", metrics={"exact": 1}, dataset=res.Dataset(digest="x")),
    ):
        request = rs.CreateEvaluationRequest(parent=version.name, evaluation=wrong)
        assert (await refused(registry.CreateEvaluation(request)))[0] == Code.INVALID_ARGUMENT


async def test_lineage_and_comparison_travel(client: Client) -> None:
    registry = client.registry
    first = await push(client, adapter_bytes(), lineage=res.Lineage(metrics={"exact": 0.5}))
    lineage = res.Lineage(metrics={"exact": 0.75, "loss": 1}, parents=[first.digest])
    second = await push(client, adapter_bytes(seed=1), lineage=lineage)
    graph = await registry.GetLineageGraph(rs.GetLineageGraphRequest(name=second.name))
    assert [node.label for node in graph.nodes[:2]] == ["default/support:2", "tiny"]
    (parent,) = [edge for edge in graph.edges if edge.relation == "parent"]
    nodes = {node.id: node for node in graph.nodes}
    assert nodes[parent.target].version == first.name
    assert nodes[parent.source].metrics == {"exact": 0.75, "loss": 1}
    found = await registry.CompareVersions(
        rs.CompareVersionsRequest(first_reference="support:1", second_reference="support:2")
    )
    assert (found.first, found.second, found.identical) == (first.name, second.name, False)
    exact, loss = found.metrics
    assert (exact.first, exact.second) == (0.5, 0.75)
    assert not loss.HasField("first")
    assert len(found.modules) == 4
    assert found.modules[0].effect_difference > 0
    assert [factor.name for factor in found.modules[0].factors] == [
        "lora_A.weight",
        "lora_B.weight",
    ]


async def test_a_watch_tells_what_happens_and_goes_on_from_its_token(client: Client) -> None:
    version = await push(client, adapter_bytes(), lineage=res.Lineage(recipe="r: 4"))
    stub = watch_service_pb2_grpc.WatchServiceStub(client.channel)
    ws = watch_service_pb2
    stream = stub.Watch(ws.WatchRequest(parent="namespaces/default"), timeout=60)
    begun = await stream.read()
    assert not begun.events
    await client.registry.BlockVersion(rs.BlockVersionRequest(name=version.name, why="leaks"))
    told = await stream.read()
    (event,) = told.events
    assert (event.kind, event.adapter, event.version) == (ws.EVENT_KIND_VERSION_BLOCKED, NAME, 1)
    assert (event.digest, event.why, event.principal) == (version.digest, "leaks", "anonymous")
    position = await stub.GetPosition(ws.GetPositionRequest())
    assert event.position == told.position == position.position == begun.position + 1
    stream.cancel()
    again = stub.Watch(ws.WatchRequest(resume_token=begun.resume_token), timeout=60)
    assert (await again.read()).events == told.events
    elsewhere = ws.WatchRequest(parent="namespaces/zoo", resume_token=begun.resume_token)
    assert not (await stub.Watch(elsewhere, timeout=60).read()).events
    often = ws.WatchRequest(resume_token=told.resume_token)
    often.heartbeat.FromMilliseconds(100)
    bookmarks = stub.Watch(often, timeout=60)
    for _ in range(3):
        assert (await bookmarks.read()) == ws.WatchResponse(
            resume_token=told.resume_token, position=told.position
        )
    wrong = ws.WatchRequest(resume_token="nonsense")
    assert (await refused(stub.Watch(wrong)))[:2] == (
        Code.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID"
    )  # fmt: skip


async def test_a_registry_that_stops_does_not_wait_for_watchers(
    client: Client, host: GrpcHost, stocked: Catalogue
) -> None:
    stub = watch_service_pb2_grpc.WatchServiceStub(client.channel)
    stream = stub.Watch(watch_service_pb2.WatchRequest())
    await stream.read()
    stocked.end_watches()
    async with asyncio.timeout(20):
        await host.stop(1000)
    assert await stream.code() == Code.UNAVAILABLE


async def test_a_divided_alias_is_expanded_and_resolved_by_key(client: Client) -> None:
    for seed in range(2):
        await push(client, adapter_bytes(seed=seed), lineage=res.Lineage(recipe="r: 4"))
    alias = res.Alias(
        name=f"{NAME}/aliases/production",
        targets=[res.AliasTarget(version=1, weight=10), res.AliasTarget(version=2, weight=90)],
    )
    await client.registry.SetAlias(rs.SetAliasRequest(alias=alias))
    meant = await client.registry.ExpandReference(rs.ExpandReferenceRequest(reference="support"))
    assert [(v.version.number, v.weight) for v in meant.versions] == [(1, 10), (2, 90)]
    assert meant.salt == "default/support@production"
    assert meant.versions[0].version.lineage == res.Lineage(
        base_fingerprint=fingerprint("a"), base_name="tiny"
    )

    async def number(**key: str) -> int:
        asked = rs.ResolveReferenceRequest(reference="support", **key)
        return int((await client.registry.ResolveReference(asked)).number)

    assert await number() == 2
    chosen = [await number(sticky_key=str(n)) for n in range(40)]
    assert set(chosen) == {1, 2}
    assert chosen == [await number(sticky_key=str(n)) for n in range(40)]
    too_long = rs.ResolveReferenceRequest(reference="support", sticky_key="x" * 257)
    assert (await refused(client.registry.ResolveReference(too_long)))[:2] == (
        Code.INVALID_ARGUMENT,
        "STICKY_KEY_INVALID",
    )


async def test_adapters_are_made_changed_listed_and_deleted(client: Client) -> None:
    registry = client.registry
    made = await registry.CreateAdapter(
        rs.CreateAdapterRequest(
            parent="namespaces/team",
            adapter_id="x",
            adapter=res.Adapter(description="d", labels={"a": "1", "b": "2"}, latest_version=9),
        )
    )
    assert (made.name, made.latest_version) == ("namespaces/team/adapters/x", 0)
    assert await registry.GetAdapter(rs.GetAdapterRequest(name=made.name)) == made

    async def update(*paths: str, mask: bool = True, **fields: Any) -> Any:
        return await registry.UpdateAdapter(
            rs.UpdateAdapterRequest(
                adapter=res.Adapter(name=made.name, **fields),
                update_mask=FieldMask(paths=paths) if mask else None,
            )
        )

    changed = await update("labels", labels={"c": "3"}, description="not in the mask")
    assert (changed.description, dict(changed.labels)) == ("d", {"c": "3"})
    changed = await update(mask=False, description="e")
    assert (changed.description, dict(changed.labels)) == ("e", {"c": "3"})
    changed = await update("*", etag=changed.etag)
    assert (changed.description, dict(changed.labels)) == ("", {})
    assert (await refused(update("create_time")))[1] == "UPDATE_MASK_INVALID"
    assert (await refused(update("*", etag=made.etag)))[:2] == (Code.ABORTED, "ETAG_MISMATCH")

    everything = await registry.ListAdapters(rs.ListAdaptersRequest(parent="namespaces/-"))
    assert [a.name for a in everything.adapters] == [NAME, made.name]
    page = await registry.ListAdapters(rs.ListAdaptersRequest(parent="namespaces/-", page_size=1))
    rest = await registry.ListAdapters(
        rs.ListAdaptersRequest(parent="namespaces/-", page_token=page.next_page_token)
    )
    assert [a.name for a in rest.adapters] == [made.name]
    only = await registry.ListAdapters(
        rs.ListAdaptersRequest(parent="namespaces/-", filter='name = "supp*"')
    )
    assert [a.name for a in only.adapters] == [NAME]

    await push(client, adapter_bytes())
    delete = rs.DeleteAdapterRequest
    assert (await refused(registry.DeleteAdapter(delete(name=NAME))))[:2] == (
        Code.FAILED_PRECONDITION,
        "ADAPTER_HAS_VERSIONS",
    )
    await registry.DeleteAdapter(delete(name=NAME, force=True))
    assert (await refused(registry.DeleteAdapter(delete(name=NAME))))[0] == Code.NOT_FOUND


async def test_bases(client: Client) -> None:
    base = res.Base(
        fingerprint=fingerprint("b"),
        display_name="b",
        architecture="X",
        quantization="none",
        modules=[res.LinearModule(path="m", in_features=1, out_features=2)],
        max_rank=8,
        context_length=16,
    )
    made = await client.registry.CreateBase(rs.CreateBaseRequest(base=base))
    assert made.name == f"bases/{fingerprint('b')}"
    assert await client.registry.GetBase(rs.GetBaseRequest(name=made.name)) == made
    listed = await client.registry.ListBases(rs.ListBasesRequest(page_size=1))
    assert list(listed.bases) == [made]
    rest = await client.registry.ListBases(rs.ListBasesRequest(page_token=listed.next_page_token))
    assert [b.display_name for b in rest.bases] == ["tiny"]


async def test_a_known_base_cannot_get_other_modules(client: Client) -> None:
    """Anybody could overwrite the shapes that everybody's uploads are checked against."""
    announced = res.Base(
        fingerprint=fingerprint("a"),
        modules=[res.LinearModule(path="m", in_features=1, out_features=2)],
    )
    code, reason, _ = await refused(
        client.registry.CreateBase(rs.CreateBaseRequest(base=announced))
    )
    assert (code, reason) == (Code.FAILED_PRECONDITION, "BASE_CONFLICT")


async def test_the_largest_version_and_base_fit_in_an_answer(client: Client) -> None:
    """What fills the bounds on lineages and bases used to be stored, and then be too large to be read again."""
    name, split = "ü" * 245, "s" * 250
    lineage = res.Lineage(
        recipe="r" * (200 << 10),
        datasets=[res.Dataset(name=name, split=f"{i}{split}"[:250]) for i in range(1000)],
        parents=[f"sha256:{i:064x}" for i in range(1000)],
    )
    files = {**adapter_bytes(), **{f"{'f' * 190}{i}.txt": b"" for i in range(250)}}
    version = await push(client, files, lineage=lineage, description="ü" * 4096)
    request = rs.GetVersionRequest(name=version.name)
    assert 1 << 20 < (await client.registry.GetVersion(request)).ByteSize() < 3 << 20
    await client.registry.ListVersions(rs.ListVersionsRequest(parent=NAME))

    modules = [
        res.LinearModule(path=f"{i}.{'p' * 500}", in_features=1 << 27, out_features=1 << 27)
        for i in range(7_800)
    ]
    base = res.Base(fingerprint=fingerprint("b"), display_name="n" * 512, modules=modules)
    await client.registry.CreateBase(rs.CreateBaseRequest(base=base))
    listed = await client.registry.ListBases(rs.ListBasesRequest(page_size=1))
    assert 4_000_000 < listed.ByteSize() < 4 << 20


async def test_what_would_not_fit_in_an_answer_is_refused(client: Client) -> None:
    """A media type had no bound, and the bounds of a lineage's parts summed to more than a message."""
    datasets = [res.Dataset(name="n" * 500, split="s" * 500 + str(i)) for i in range(1000)]
    for wrong in (
        push(client, adapter_bytes(), lineage=res.Lineage(recipe="x" * 100_000, datasets=datasets)),
        push(client, adapter_bytes(), media_type="x" * 256),
    ):
        assert (await refused(wrong))[:2] == (Code.INVALID_ARGUMENT, "FIELD_TOO_LONG")


async def test_pages_stay_within_a_message(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_service, "_MAX_PAGE_BYTES", 5000)
    for seed in range(8):
        await push(client, adapter_bytes(seed=seed), lineage=res.Lineage(recipe="x" * 1000))
    numbers: list[int] = []
    request = rs.ListVersionsRequest(parent=NAME)
    while True:
        page = await client.registry.ListVersions(request)
        assert page.ByteSize() <= 5000
        numbers += [version.number for version in page.versions]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert numbers == [8, 7, 6, 5, 4, 3, 2, 1]


BAD_CALLS: dict[str, tuple[Callable[[Client], Any], Code, str]] = {
    "unknown adapter": (
        lambda c: c.registry.GetAdapter(
            rs.GetAdapterRequest(name="namespaces/default/adapters/no")
        ),
        Code.NOT_FOUND,
        "ADAPTER_NOT_FOUND",
    ),
    "unknown alias": (
        lambda c: c.registry.ResolveReference(rs.ResolveReferenceRequest(reference="support@no")),
        Code.NOT_FOUND,
        "ALIAS_NOT_FOUND",
    ),
    "unknown digest": (
        lambda c: c.registry.ResolveReference(
            rs.ResolveReferenceRequest(reference=f"support@{fingerprint('0')}")
        ),
        Code.NOT_FOUND,
        "VERSION_NOT_FOUND",
    ),
    "unknown version": (
        lambda c: c.registry.GetVersion(rs.GetVersionRequest(name=f"{NAME}/versions/1")),
        Code.NOT_FOUND,
        "VERSION_NOT_FOUND",
    ),
    "unknown base": (
        lambda c: c.registry.GetBase(rs.GetBaseRequest(name=f"bases/{fingerprint('0')}")),
        Code.NOT_FOUND,
        "BASE_NOT_FOUND",
    ),
    "a name that is taken": (
        lambda c: c.registry.CreateAdapter(
            rs.CreateAdapterRequest(parent="namespaces/default", adapter_id="support")
        ),
        Code.ALREADY_EXISTS,
        "ADAPTER_EXISTS",
    ),
    "a name that is none": (
        lambda c: c.registry.CreateAdapter(
            rs.CreateAdapterRequest(parent="namespaces/default", adapter_id="../x")
        ),
        Code.INVALID_ARGUMENT,
        "NAME_INVALID",
    ),
    "all namespaces as a parent": (
        lambda c: c.registry.CreateAdapter(
            rs.CreateAdapterRequest(parent="namespaces/-", adapter_id="x")
        ),
        Code.INVALID_ARGUMENT,
        "NAME_INVALID",
    ),
    "an empty request": (
        lambda c: c.registry.SetAlias(rs.SetAliasRequest()),
        Code.INVALID_ARGUMENT,
        "NAME_INVALID",
    ),
    "a reference that is none": (
        lambda c: c.registry.ResolveReference(rs.ResolveReferenceRequest(reference="support:x")),
        Code.INVALID_ARGUMENT,
        "REFERENCE_INVALID",
    ),
    "a version without files": (
        lambda c: c.registry.CreateVersion(rs.CreateVersionRequest(parent=NAME)),
        Code.INVALID_ARGUMENT,
        "FILE_MISSING",
    ),
    "a filter that is none": (
        lambda c: c.registry.ListAdapters(
            rs.ListAdaptersRequest(parent="namespaces/default", filter="x > 1")
        ),
        Code.INVALID_ARGUMENT,
        "FILTER_INVALID",
    ),
    "a page token that is none": (
        lambda c: c.registry.ListVersions(rs.ListVersionsRequest(parent=NAME, page_token="x")),
        Code.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
    ),
    "a negative page size": (
        lambda c: c.registry.ListBases(rs.ListBasesRequest(page_size=-1)),
        Code.INVALID_ARGUMENT,
        "PAGE_SIZE_INVALID",
    ),
    "a base without modules": (
        lambda c: c.registry.CreateBase(
            rs.CreateBaseRequest(base=res.Base(fingerprint=fingerprint("b")))
        ),
        Code.INVALID_ARGUMENT,
        "FIELD_INVALID",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
async def test_bad_calls_end_with_their_code_and_reason(client: Client, case: str) -> None:
    call, code, reason = BAD_CALLS[case]
    assert (await refused(call(client)))[:2] == (code, reason)


async def test_a_bad_adapter_is_refused_and_the_server_goes_on(client: Client) -> None:
    assert (await refused(push(client, adapter_bytes(config=lora_config(use_qalora=True)))))[
        :2
    ] == (
        Code.INVALID_ARGUMENT,
        "FEATURE_UNSUPPORTED",
    )
    missing = rs.CreateVersionRequest(
        parent=NAME,
        version=res.Version(
            files=[
                res.File(path=path, digest=fingerprint(str(i)), size_bytes=1)
                for i, path in enumerate(("adapter_config.json", "adapter_model.safetensors"))
            ]
        ),
    )
    assert (await refused(client.registry.CreateVersion(missing)))[:2] == (
        Code.FAILED_PRECONDITION,
        "BLOBS_MISSING",
    )
    assert (await push(client, adapter_bytes())).number == 1


async def test_sixteen_publishers_over_the_wire(client: Client, stocked: Catalogue) -> None:
    manifests = [upload(stocked, adapter_bytes(seed=seed)) for seed in range(16)]
    versions = await asyncio.gather(
        *(
            client.registry.CreateVersion(
                rs.CreateVersionRequest(
                    parent=NAME,
                    version=res.Version(
                        files=[
                            res.File(path=f.path, digest=f.digest, size_bytes=f.size_bytes)
                            for f in manifest
                        ]
                    ),
                )
            )
            for manifest in manifests
        )
    )
    assert sorted(version.number for version in versions) == list(range(1, 17))


# The server around them.


async def test_health_follows_start_and_stop(stocked: Catalogue) -> None:
    status = health_pb2.HealthCheckResponse
    host = create_server("127.0.0.1:0", lambda server: add_services(server, stocked))
    await host.start(serving=False)
    try:
        async with grpc.aio.insecure_channel(host.address) as channel:
            health = Client(channel).health
            names = ("", "lorry.registry.v1.RegistryService", "lorry.registry.v1.BlobService")

            async def states() -> set[int]:
                return {
                    (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
                    for name in names
                }

            assert await states() == {status.NOT_SERVING}
            await host.set_serving(True)
            assert await states() == {status.SERVING}
            await host.health.enter_graceful_shutdown()
            await host.set_serving(True)  # too late
            assert await states() == {status.NOT_SERVING}
    finally:
        await host.stop(0)


async def test_reflection_names_the_services(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)

    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for answer in stub.ServerReflectionInfo(ask()):
        names = {service.name for service in answer.list_services_response.service}
        assert {"lorry.registry.v1.RegistryService", "grpc.health.v1.Health"} <= names
        break


async def test_two_servers_on_one_port(host: GrpcHost, stocked: Catalogue) -> None:
    with pytest.raises(FailedPrecondition, match="another server has the port") as caught:
        create_server(host.address, lambda server: add_services(server, stocked))
    assert caught.value.reason == "ADDRESS_IN_USE"


def test_one_parser_reads_every_address() -> None:
    """Each process read HOST:PORT its own way, and they differed about IPv6 and about what a digit is."""
    assert parse_address("127.0.0.1:0", "listen") == ("127.0.0.1", 0)
    assert parse_address("[::1]:7071", "listen") == ("::1", 7071)
    for wrong in ("::1:7071", "[]:1", "[a]:1", "a:\N{FULLWIDTH DIGIT ONE}", "a:" + "1" * 5000):
        with pytest.raises(InvalidArgument, match="--metrics is") as caught:
            parse_address(wrong, "metrics")
        assert caught.value.reason == "ADDRESS_INVALID"


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":7071", "a:b", "a:99999"])
async def test_addresses_that_are_none(stocked: Catalogue, address: str) -> None:
    with pytest.raises(InvalidArgument):
        create_server(address, lambda server: add_services(server, stocked))


async def test_calls_in_flight_end_within_the_grace(stocked: Catalogue) -> None:
    host = create_server("127.0.0.1:0", lambda server: add_services(server, stocked))
    await host.start()
    async with grpc.aio.insecure_channel(host.address) as channel:
        client = Client(channel)
        call = client.blobs.WriteBlob()
        await call.write(bs.WriteBlobRequest(digest=DIGEST, size_bytes=len(DATA)))
        await client.blobs.GetBlobWrite(bs.GetBlobWriteRequest(digest=DIGEST))
        stopping = asyncio.create_task(host.stop(10))
        await asyncio.sleep(0.05)
        for start in range(0, len(DATA), CHUNK):
            piece = DATA[start : start + CHUNK]
            last = start + CHUNK >= len(DATA)
            await call.write(bs.WriteBlobRequest(write_offset=start, data=piece, finish_write=last))
        assert (await call).complete
        await asyncio.wait_for(stopping, 5)


async def test_handlers_do_not_hold_up_health(
    client: Client, stocked: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(stocked, "get_adapter", lambda key: time.sleep(0.5) or 1 / 0)
    slow = asyncio.ensure_future(client.registry.GetAdapter(rs.GetAdapterRequest(name=NAME)))
    await asyncio.sleep(0.05)
    await client.health.Check(health_pb2.HealthCheckRequest())
    assert not slow.done()
    assert (await refused(slow))[:2] == (Code.INTERNAL, "INTERNAL")


# The table.


async def test_a_bug_is_internal_and_its_trace_stays_here(
    client: Client,
    stocked: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def bug(*_: object) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(stocked, "get_adapter", bug)
    monkeypatch.setattr(stocked.blobs, "size", bug)
    for call in (
        client.registry.GetAdapter(rs.GetAdapterRequest(name=NAME)),
        client.blobs.ReadBlob(bs.ReadBlobRequest(digest=DIGEST)),
    ):
        with caplog.at_level(logging.ERROR):
            code, reason, metadata = await refused(call)
        assert (code, reason) == (Code.INTERNAL, "INTERNAL")
        assert "secret detail" not in str(metadata)
        assert metadata["error_id"] in caplog.text
        assert "secret detail" in caplog.text


def test_every_kind_of_error_has_a_code() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.LorryError)
    } - {errors.LorryError}
    assert set(CODES) == kinds


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, ""), "DISK_FULL"),
        (OSError(errno.EROFS, ""), "HOME_UNWRITABLE"),
        (PermissionError(errno.EACCES, ""), "HOME_UNWRITABLE"),
        (OSError(errno.EMFILE, ""), "TOO_MANY_OPEN_FILES"),
        (OSError(errno.EIO, ""), "INTERNAL"),
        (ValueError("x"), "INTERNAL"),
    ],
)
def test_what_the_system_says_is_told_in_our_words(error: Exception, reason: str) -> None:
    assert to_lorry_error(error).reason == reason


def test_a_status_always_fits_in_the_trailers() -> None:
    """Peers may refuse trailers beyond 8 KiB; text counts thrice when percent-encoded, and the whole once more."""
    error = InvalidArgument(
        "ü" * 100_000, reason="R" * 63, **{f"key{i}": "ü" * 10_000 for i in range(50)}
    )
    status = to_status(error)
    details = status.trailing_metadata[0][1]
    assert 3 * len(status.details.encode()) + 4 / 3 * len(details) < 7000


async def test_a_long_message_arrives(client: Client) -> None:
    bad = rs.ResolveReferenceRequest(reference="ü" * 100_000)
    assert (await refused(client.registry.ResolveReference(bad)))[0] == Code.INVALID_ARGUMENT
