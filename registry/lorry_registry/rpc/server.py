"""The registry's services on a server: mounted into another process's, or alone."""

import asyncio
import sys
from collections.abc import Sequence

import grpc

from lorry.registry.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    blob_service_pb2,
    blob_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    watch_service_pb2,
    watch_service_pb2_grpc,
)
from lorry_registry.access.authority import Authority, OpenAuthority, RegistryAuthority
from lorry_registry.access.settings import read_settings
from lorry_registry.catalogue import Catalogue
from lorry_registry.config import RegistryConfig, is_loopback
from lorry_registry.embedded import open_catalogue
from lorry_registry.rpc.access_service import AccessService
from lorry_registry.rpc.blob_service import BlobService
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import GrpcHost, StopSignal, create_server
from lorry_registry.rpc.registry_service import RegistryService
from lorry_registry.rpc.rules import RULES
from lorry_registry.rpc.watch_service import WatchService
from lorry_registry.security import Security

__all__ = ["GrpcHost", "StopSignal", "add_services", "create_server", "run", "serve"]


def add_services(server: grpc.aio.Server, catalogue: Catalogue) -> Sequence[str]:
    """Adds the registry's services to `server` and returns their full names (for health and reflection)."""
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
        RegistryService(catalogue), server
    )
    blob_service_pb2_grpc.add_BlobServiceServicer_to_server(BlobService(catalogue), server)
    watch_service_pb2_grpc.add_WatchServiceServicer_to_server(WatchService(catalogue), server)
    access_service_pb2_grpc.add_AccessServiceServicer_to_server(
        AccessService(catalogue.access), server
    )
    return tuple(
        descriptor.services_by_name[name].full_name
        for descriptor, name in (
            (registry_service_pb2.DESCRIPTOR, "RegistryService"),
            (blob_service_pb2.DESCRIPTOR, "BlobService"),
            (watch_service_pb2.DESCRIPTOR, "WatchService"),
            (access_service_pb2.DESCRIPTOR, "AccessService"),
        )
    )


def authority_of(catalogue: Catalogue, security: Security, listen: str) -> Authority:
    """Who says what credentials are good for at a server with this catalogue."""
    if not security.requires_auth(loopback=is_loopback(listen)):
        return OpenAuthority(catalogue.access)
    file = security.access_file
    return RegistryAuthority(catalogue.access, None if file is None else read_settings(file))


async def serve(config: RegistryConfig) -> None:
    """Runs a stand-alone registry until SIGTERM or SIGINT, then lets calls in flight end.

    Raises:
        FailedPrecondition: `ADDRESS_IN_USE`, `INSECURE_ADDRESS`, and as `open_catalogue`.
    """
    catalogue = await asyncio.to_thread(
        open_catalogue,
        config.home,
        database=config.database,
        blobs=config.blobs,
        migrate=config.migrate,
    )
    try:
        gate = Gate(RULES, authority_of(catalogue, config.security, config.listen))
        host = create_server(
            config.listen,
            lambda server: add_services(server, catalogue),
            gate=gate,
            security=config.security,
        )
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
