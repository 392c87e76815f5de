"""Residency and status, as operators see them."""

from __future__ import annotations

import grpc
import pytest

from lorry.admin.v1 import admin_service_pb2 as pb
from lorry.inference.v1 import composition_pb2, inference_service_pb2


async def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details()


async def test_load_pin_unload(node):
    version = node.registry.publish("support")
    loaded = await node.admin.LoadAdapter(pb.LoadAdapterRequest(adapter="support", pin=True))
    assert (loaded.digest, loaded.tier, loaded.rank) == (version.digest, pb.TIER_SLOT, 8)
    assert (loaded.pinned, list(loaded.references)) == (True, ["default/support:1"])
    assert loaded.load_duration.ToTimedelta().total_seconds() == 0.25
    assert loaded.last_used_time.seconds > 1_700_000_000

    code, _ = await refusal(node.admin.UnloadAdapter(pb.UnloadAdapterRequest(adapter="support")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    unpinned = await node.admin.PinAdapter(pb.PinAdapterRequest(adapter="support", pinned=False))
    assert not unpinned.pinned
    gone = await node.admin.UnloadAdapter(pb.UnloadAdapterRequest(adapter="support"))
    assert gone.digest == version.digest
    (left,) = (await node.admin.ListResidents(pb.ListResidentsRequest())).residents
    assert left.tier == pb.TIER_DISK


async def test_what_is_resident_can_be_managed_without_the_registry(node):
    version = node.registry.publish("support")
    await node.admin.LoadAdapter(pb.LoadAdapterRequest(adapter="support"))
    node.registry.away = True
    reference = f"support@{version.digest}"
    await node.admin.PinAdapter(pb.PinAdapterRequest(adapter=reference, pinned=True))
    await node.admin.PinAdapter(pb.PinAdapterRequest(adapter=reference, pinned=False))
    await node.admin.UnloadAdapter(pb.UnloadAdapterRequest(adapter=reference))


async def test_unknown_and_absent_adapters(node):
    code, _ = await refusal(node.admin.LoadAdapter(pb.LoadAdapterRequest(adapter="nobody")))
    assert code is grpc.StatusCode.NOT_FOUND
    code, _ = await refusal(node.admin.LoadAdapter(pb.LoadAdapterRequest()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    node.registry.publish("support")
    code, _ = await refusal(node.admin.PinAdapter(pb.PinAdapterRequest(adapter="support")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_residents_that_requests_brought_carry_their_names(node):
    node.registry.publish("support")
    asked = inference_service_pb2.GenerateRequest(text="hi", adapter="support:1")
    await node.generate(asked)
    (resident,) = (await node.admin.ListResidents(pb.ListResidentsRequest())).residents
    assert list(resident.references) == ["default/support:1"]


async def test_status(node, base):
    status = await node.admin.GetStatus(pb.GetStatusRequest())
    assert (status.base, status.base_fingerprint) == ("lorry-tiny", base.fingerprint)
    assert (status.device, status.context_length) == ("cpu", 200)
    assert (status.slots_total, status.kv_blocks_total, status.max_rank) == (4, 64, 16)
    assert status.version
    assert status.start_time.seconds > 1_700_000_000


async def test_merge_and_unmerge(node):
    version = node.registry.publish("support")
    node.registry.publish("tone")
    merged = await node.admin.MergeAdapter(pb.MergeAdapterRequest(adapter="support"))
    assert (merged.digest, merged.cause, merged.active) == (
        version.digest,
        pb.MERGE_CAUSE_OPERATOR,
        True,
    )
    assert (list(merged.references), merged.size_bytes) == (["default/support:1"], 1 << 20)
    assert merged.merge_duration.ToTimedelta().total_seconds() == 0.5
    assert (await node.admin.GetStatus(pb.GetStatusRequest())).merge == merged
    (resident,) = (await node.admin.ListResidents(pb.ListResidentsRequest())).residents
    assert resident.merged
    labels = {"adapter": version.digest[:19], "reference": "default/support:1"}
    assert node.sample("lorry_adapter_merged", **labels) == 1.0
    assert node.sample("lorry_merged_bytes") == float(1 << 20)
    terms = [composition_pb2.CompositionTerm(adapter=name) for name in ("support", "tone")]
    composed = await node.admin.MergeAdapter(
        pb.MergeAdapterRequest(composition=composition_pb2.Composition(terms=terms))
    )
    assert composed.digest not in (version.digest, "")
    await node.admin.UnmergeAdapter(pb.UnmergeAdapterRequest())
    assert not (await node.admin.GetStatus(pb.GetStatusRequest())).HasField("merge")
    code, _ = await refusal(node.admin.MergeAdapter(pb.MergeAdapterRequest(adapter="nobody")))
    assert code is grpc.StatusCode.NOT_FOUND
    code, _ = await refusal(node.admin.MergeAdapter(pb.MergeAdapterRequest()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_request_may_ask_for_its_adapter_merged(node):
    node.registry.publish("support")
    asked = inference_service_pb2.GenerateRequest(
        text="hi", adapter="support", execution=inference_service_pb2.EXECUTION_MERGED
    )
    await node.generate(asked)
    await node.generate(inference_service_pb2.GenerateRequest(text="hi", adapter="support"))
    assert [request.merged for request in node.engine.submitted] == [True, False]


@pytest.mark.parametrize(("execution", "adapter"), [(1, ""), (9, "support")])
async def test_an_execution_that_means_nothing(node, execution, adapter):
    node.registry.publish("support")
    bad = inference_service_pb2.GenerateRequest(text="hi", adapter=adapter, execution=execution)
    code, reason, _ = await node.refusal(bad)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert reason == ("EXECUTION_INVALID" if adapter else "EXECUTION_WITHOUT_ADAPTER")
