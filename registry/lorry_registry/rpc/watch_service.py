"""WatchService over the catalogue's events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from lorry.registry.v1 import watch_service_pb2 as pb
from lorry.registry.v1 import watch_service_pb2_grpc
from lorry_registry import references
from lorry_registry.catalogue import Catalogue
from lorry_registry.rpc import convert
from lorry_registry.watching import DEFAULT_HEARTBEAT_SECONDS

Context = Any  # grpc.aio.ServicerContext; nothing here needs it


class WatchService(watch_service_pb2_grpc.WatchServiceServicer):
    """The events, as they happen."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def Watch(
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        namespace = None
        if request.parent:
            namespace = references.parse_namespace_name(request.parent, all_allowed=True)
        heartbeat = DEFAULT_HEARTBEAT_SECONDS
        if request.HasField("heartbeat"):
            heartbeat = request.heartbeat.seconds + request.heartbeat.nanos / 1e9
        batches = self._catalogue.watch(
            resume_token=request.resume_token,
            namespace=namespace,
            filter_text=request.filter,
            heartbeat_seconds=heartbeat,
        )
        async for batch in batches:
            yield pb.WatchResponse(
                resume_token=batch.resume_token,
                position=batch.position,
                events=map(convert.event_to_proto, batch.events),
            )

    async def GetPosition(
        self, request: pb.GetPositionRequest, context: Context
    ) -> pb.GetPositionResponse:
        return pb.GetPositionResponse(position=await asyncio.to_thread(self._catalogue.position))
