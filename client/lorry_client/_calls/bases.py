"""The call that asks for a base."""

from __future__ import annotations

from lorry.registry.v1 import registry_service_pb2 as pb
from lorry_client import names
from lorry_client._calls.requests import LOOKUP_SECONDS, build
from lorry_client._steps import Call
from lorry_client.results.bases import Base


def get_base(fingerprint: str) -> Call[Base]:
    request = build(pb.GetBaseRequest, name=names.base(fingerprint))
    return Call(lambda stubs: stubs.registry.GetBase, request, Base.read, LOOKUP_SECONDS)
