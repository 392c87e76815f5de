"""The calls of the admin service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorry.admin.v1 import admin_service_pb2 as pb
from lorry_client import compositions
from lorry_client._calls.requests import LOAD_SECONDS, LOOKUP_SECONDS, build
from lorry_client._steps import Call
from lorry_client.results.admin import Merge, Resident, Status

if TYPE_CHECKING:
    from lorry_client.compositions import Composition


def status() -> Call[Status]:
    return Call(
        lambda stubs: stubs.admin.GetStatus, pb.GetStatusRequest(), Status.read, LOOKUP_SECONDS
    )


def residents() -> Call[list[Resident]]:
    return Call(
        lambda stubs: stubs.admin.ListResidents,
        pb.ListResidentsRequest(),
        lambda answer: [Resident.read(one) for one in answer.residents],
        LOOKUP_SECONDS,
    )


def load(adapter: str | Composition, pin: bool) -> Call[Resident]:
    request = build(pb.LoadAdapterRequest, **compositions.target(adapter), pin=pin)
    return Call(lambda stubs: stubs.admin.LoadAdapter, request, Resident.read, LOAD_SECONDS)


def pin(adapter: str, pinned: bool) -> Call[Resident]:
    request = build(pb.PinAdapterRequest, adapter=adapter, pinned=pinned)
    return Call(lambda stubs: stubs.admin.PinAdapter, request, Resident.read, LOOKUP_SECONDS)


def unload(adapter: str) -> Call[str]:
    """Answers with the digest that left its slot; waits for the requests in flight."""
    request = build(pb.UnloadAdapterRequest, adapter=adapter)
    return Call(
        lambda stubs: stubs.admin.UnloadAdapter, request, lambda answer: answer.digest, LOAD_SECONDS
    )


def merge(adapter: str | Composition) -> Call[Merge]:
    """Answers once the adapter acts merged."""
    request = build(pb.MergeAdapterRequest, **compositions.target(adapter))
    return Call(lambda stubs: stubs.admin.MergeAdapter, request, Merge.read, LOAD_SECONDS)


def unmerge() -> Call[None]:
    return Call(
        lambda stubs: stubs.admin.UnmergeAdapter,
        pb.UnmergeAdapterRequest(),
        lambda _: None,
        LOOKUP_SECONDS,
    )
