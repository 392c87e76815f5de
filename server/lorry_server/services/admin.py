"""The admin service: what is in memory, how busy the server is, and an operator's hand on both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from lorry.admin.v1 import admin_service_pb2 as pb
from lorry.admin.v1 import admin_service_pb2_grpc as pb_grpc
from lorry_registry.access.rights import EVERYWHERE, Role, current_rights
from lorry_server.adapters import AdapterDirectory
from lorry_server.base import ServedBase
from lorry_server.cache import AdapterCache, OnDisk
from lorry_server.compositions import namespaces_in, requested
from lorry_server.engine.stats import EngineStats, MergeInfo, ResidentInfo
from lorry_server.registries.following import Follower
from lorry_server.version import version

_T = TypeVar("_T")
_MAX_ON_DISK = 10_000  # listed, the most recently used: an answer is one message
_CAUSES = {
    "operator": pb.MERGE_CAUSE_OPERATOR,
    "request": pb.MERGE_CAUSE_REQUEST,
    "auto": pb.MERGE_CAUSE_AUTO,
}
_TIERS = {"disk": pb.TIER_DISK, "host": pb.TIER_HOST, "slot": pb.TIER_SLOT}


class ManagedEngine(Protocol):
    """What an operator needs of the engine."""

    def load(self, digest: str, *, pin: bool = False) -> Future[ResidentInfo]: ...

    def pin(self, digest: str, pinned: bool) -> Future[ResidentInfo]: ...

    def unload(self, digest: str) -> Future[None]: ...

    def merge(self, digest: str) -> Future[MergeInfo]: ...

    def unmerge(self) -> Future[None]: ...

    def stats(self) -> EngineStats: ...


class AdminService(pb_grpc.AdminServiceServicer):
    """Lives on the event loop and never blocks it."""

    def __init__(
        self,
        *,
        base: ServedBase,
        engine: ManagedEngine,
        adapters: AdapterDirectory,
        cache: AdapterCache,
        max_rank: int,
        follower: Follower,
    ) -> None:
        self._base = base
        self._engine = engine
        self._adapters = adapters
        self._cache = cache
        self._max_rank = max_rank
        self._follower = follower
        self._start_time = time.time()

    async def ListResidents(
        self, request: pb.ListResidentsRequest, context: Any
    ) -> pb.ListResidentsResponse:
        residents = [self._resident(info) for info in self._engine.stats().residents]
        in_memory = {resident.digest for resident in residents}
        on_disk = [entry for entry in self._cache.on_disk() if entry.digest not in in_memory]
        residents += [self._on_disk(entry) for entry in on_disk[:_MAX_ON_DISK]]
        residents = [resident for resident in map(_as_seen, residents) if resident is not None]
        residents.sort(
            key=lambda resident: (-resident.tier, list(resident.references), resident.digest)
        )
        return pb.ListResidentsResponse(residents=residents)

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Any) -> pb.Resident:
        digest = await self._target(request)
        return self._resident(await _answer(self._engine.load(digest, pin=request.pin)))

    async def PinAdapter(self, request: pb.PinAdapterRequest, context: Any) -> pb.Resident:
        digest = await self._held(request.adapter)
        return self._resident(await _answer(self._engine.pin(digest, request.pinned)))

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Any
    ) -> pb.UnloadAdapterResponse:
        digest = await self._held(request.adapter)
        await _answer(self._engine.unload(digest))
        return pb.UnloadAdapterResponse(digest=digest)

    async def MergeAdapter(self, request: pb.MergeAdapterRequest, context: Any) -> pb.Merge:
        return self._merge(await _answer(self._engine.merge(await self._target(request))))

    async def UnmergeAdapter(
        self, request: pb.UnmergeAdapterRequest, context: Any
    ) -> pb.UnmergeAdapterResponse:
        await _answer(self._engine.unmerge())
        return pb.UnmergeAdapterResponse()

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.Status:
        stats = self._engine.stats()
        status = pb.Status(
            version=version(),
            base=self._base.name,
            base_fingerprint=self._base.fingerprint,
            device=self._base.device,
            context_length=self._base.context_length,
            queued_requests=stats.waiting,
            running_requests=stats.running,
            kv_blocks_used=stats.kv_blocks_used,
            kv_blocks_total=stats.kv_blocks_total,
            slots_used=stats.slots_used,
            slots_total=stats.slots_total,
            max_rank=self._max_rank,
        )
        status.start_time.FromNanoseconds(int(self._start_time * 1e9))
        status.registry.address = self._follower.registry.name
        status.registry.connected = self._follower.connected
        status.registry.silence.FromNanoseconds(int(self._follower.silence_seconds * 1e9))
        status.registry.position = self._follower.position
        if stats.merge is not None:
            merge = self._merge(stats.merge)
            if _may_know(merge.references):
                status.merge.CopyFrom(merge)
        return status

    async def _target(self, request: pb.LoadAdapterRequest | pb.MergeAdapterRequest) -> str:
        """The digest of what an operator names."""
        if request.WhichOneof("target") == "composition":
            return (await self._adapters.compose(requested(request.composition))).digest
        return (await self._adapters.resolve(request.adapter)).digest

    async def _held(self, reference: str) -> str:
        """The digest that a reference means. One that is written out and in memory needs no registry, and no name."""
        written = reference.rpartition("@")[2]
        if any(info.digest == written for info in self._engine.stats().residents):
            return written
        return (await self._adapters.resolve(reference)).digest

    def _resident(self, info: ResidentInfo) -> pb.Resident:
        resident = pb.Resident(
            digest=info.digest,
            references=self._adapters.references(info.digest),
            tier=_TIERS[info.tier],
            rank=info.rank,
            size_bytes=info.size_bytes,
            pinned=info.pinned,
            requests_in_flight=info.in_flight,
            merged=info.merged,
        )
        if info.logit_change is not None:
            resident.logit_change = info.logit_change
        resident.load_duration.FromNanoseconds(int(info.load_seconds * 1e9))
        if info.last_used is not None:
            resident.last_used_time.FromNanoseconds(int(info.last_used * 1e9))
        return resident

    def _merge(self, info: MergeInfo) -> pb.Merge:
        merge = pb.Merge(
            digest=info.digest,
            references=_seen(self._adapters.references(info.digest)),
            cause=_CAUSES[info.cause],
            active=info.active,
            size_bytes=info.size_bytes,
        )
        merge.merge_duration.FromNanoseconds(int(info.seconds * 1e9))
        return merge

    def _on_disk(self, entry: OnDisk) -> pb.Resident:
        known = [entry.reference] if entry.reference else []
        resident = pb.Resident(
            digest=entry.digest,
            references=self._adapters.references(entry.digest) or known,
            tier=pb.TIER_DISK,
            rank=entry.rank,
            size_bytes=entry.size_bytes,
        )
        resident.last_used_time.FromNanoseconds(int(entry.last_used * 1e9))
        return resident


def _as_seen(resident: pb.Resident) -> pb.Resident | None:
    """The resident with the names that the caller may see; None where it has others only."""
    seen = _seen(resident.references)
    if not _may_know(seen):
        return None
    del resident.references[:]
    resident.references.extend(seen)
    return resident


def _may_know(seen: Iterable[str]) -> bool:
    """Whether the caller may know of something that has these names, as far as the caller may see them."""
    return any(seen) or current_rights.get().allows(Role.ADMIN, EVERYWHERE)


def _seen(references: Iterable[str]) -> list[str]:
    """Those of which the caller may see every adapter."""
    rights = current_rights.get()
    return [name for name in references if all(map(rights.sees, namespaces_in(name)))]


async def _answer(future: Future[_T]) -> _T:
    """Waits for the engine. A client that leaves must not cancel what the engine has begun."""
    return await asyncio.shield(asyncio.wrap_future(future))
