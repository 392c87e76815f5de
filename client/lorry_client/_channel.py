"""Where a client's calls go and by which rules: one channel, six services, retries by gRPC's own service config."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorry.admin.v1 import admin_service_pb2_grpc
from lorry.inference.v1 import inference_service_pb2_grpc
from lorry.registry.v1 import (
    access_service_pb2_grpc,
    blob_service_pb2_grpc,
    registry_service_pb2_grpc,
    watch_service_pb2_grpc,
)
from lorry_client.errors import InvalidArgument

if TYPE_CHECKING:
    import grpc
    from grpc import aio

DEFAULT_SERVER = "127.0.0.1:7070"
SERVER_VARIABLE = "LORRY_SERVER"

# An answer with 20 log-probabilities for each of 100,000 tokens is some 20 MB; gRPC's own limit is 4 MiB.
MAX_RECEIVE_BYTES = 64 * 1024 * 1024

# gRPC retries by itself, before the first byte of an answer and on UNAVAILABLE only: nothing else is safe to repeat
# without knowing what the call did.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}

CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
]


def server_address(server: str | None) -> str:
    """What is given, else what the environment says, else the default."""
    address = server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER
    if ":" not in address:
        raise InvalidArgument(
            f"{address!r} is no address of a server; write HOST:PORT.",
            reason="INVALID_SERVER_ADDRESS",
            metadata={"server": address},
        )
    return address


@dataclass(frozen=True, slots=True)
class Stubs:
    """The contract's services over one channel; over an asynchronous channel, their methods are awaited."""

    inference: inference_service_pb2_grpc.InferenceServiceStub
    registry: registry_service_pb2_grpc.RegistryServiceStub
    blobs: blob_service_pb2_grpc.BlobServiceStub
    admin: admin_service_pb2_grpc.AdminServiceStub
    watch: watch_service_pb2_grpc.WatchServiceStub
    access: access_service_pb2_grpc.AccessServiceStub

    @classmethod
    def over(cls, channel: grpc.Channel | aio.Channel) -> Stubs:
        return cls(
            inference_service_pb2_grpc.InferenceServiceStub(channel),
            registry_service_pb2_grpc.RegistryServiceStub(channel),
            blob_service_pb2_grpc.BlobServiceStub(channel),
            admin_service_pb2_grpc.AdminServiceStub(channel),
            watch_service_pb2_grpc.WatchServiceStub(channel),
            access_service_pb2_grpc.AccessServiceStub(channel),
        )
