"""The calls about bases: asking for one, and making one known."""

from __future__ import annotations

from lorry.registry.v1 import registry_service_pb2 as pb
from lorry.registry.v1 import resources_pb2 as resources
from lorry_client import names
from lorry_client._calls.requests import LOOKUP_SECONDS, build
from lorry_client._steps import Call
from lorry_client.results.bases import Base, NewBase


def get_base(fingerprint: str) -> Call[Base]:
    request = build(pb.GetBaseRequest, name=names.base(fingerprint))
    return Call(lambda stubs: stubs.registry.GetBase, request, Base.read, LOOKUP_SECONDS)


def create_base(base: NewBase) -> Call[Base]:
    message = build(
        resources.Base,
        fingerprint=base.fingerprint,
        display_name=base.display_name,
        architecture=base.architecture,
        quantization=base.quantization,
        modules=[
            build(resources.LinearModule, path=path, in_features=inputs, out_features=outputs)
            for path, (inputs, outputs) in base.modules.items()
        ],
        parameters=[
            build(resources.Parameter, path=each.path, shape=each.shape, tied_to=each.tied_to)
            for each in base.parameters
        ],
        max_rank=base.max_rank,
        context_length=base.context_length,
    )
    request = build(pb.CreateBaseRequest, base=message)
    return Call(lambda stubs: stubs.registry.CreateBase, request, Base.read, LOOKUP_SECONDS)
