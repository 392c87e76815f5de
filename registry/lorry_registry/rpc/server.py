"""The registry's services on a server: mounted into another process's, or alone."""

import asyncio
import sys
from collections.abc import Sequence

import grpc

from lorry.registry.v1 import (
    blob_service_pb2,
    blob_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    watch_service_pb2,
    watch_service_pb2_grpc,
)
from lorry_registry.catalogue import Catalogue
from lorry_registry.config import RegistryConfig
from lorry_registry.embedded import open_catalogue
from lorry_registry.rpc.blob_service import BlobService
from lorry_registry.rpc.host import GrpcHost, StopSignal, create_server
from lorry_registry.rpc.registry_service import RegistryService
from lorry_registry.rpc.watch_service import WatchService

__all__ = ["GrpcHost", "StopSignal", "add_services", "create_server", "run", "serve"]


def add_services(server: grpc.aio.Server, catalogue: Catalogue) -> Sequence[str]:
    """Adds the registry's services to `server` and returns their full names (for health and reflection)."""
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
        RegistryService(catalogue), server
    )
    blob_service_pb2_grpc.add_BlobServiceServicer_to_server(BlobService(catalogue), server)
    watch_service_pb2_grpc.add_WatchServiceServicer_to_server(WatchService(catalogue), server)
    return tuple(
        descriptor.services_by_name[name].full_name
        for descriptor, name in (
            (registry_service_pb2.DESCRIPTOR, "RegistryService"),
            (blob_service_pb2.DESCRIPTOR, "BlobService"),
            (watch_service_pb2.DESCRIPTOR, "WatchService"),
        )
    )


async def serve(config: RegistryConfig) -> None:
    """Runs a stand-alone registry until SIGTERM or SIGINT, then lets calls in flight end.

    Raises:
        FailedPrecondition: `ADDRESS_IN_USE`, and as `open_catalogue`.
    """
    catalogue = await asyncio.to_thread(
        open_catalogue, config.home, database=config.database, migrate=config.migrate
    )
    try:
        host = create_server(config.listen, lambda server: add_services(server, catalogue))
        stop = StopSignal()
        await host.start()
        # The line that callers wait for: it has the real port where 0 was asked for.
        print(f"registry listening on {host.address}", file=sys.stderr, flush=True)
        await stop.wait()
        catalogue.end_watches()
        await host.stop(config.grace_seconds)
    finally:
        await asyncio.to_thread(catalogue.close)


def run(config: RegistryConfig) -> None:
    """As `serve`, in an event loop of its own."""
    asyncio.run(serve(config))
