"""What is said of versions after they were published, and the events that tell of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from lorry.registry.v1 import registry_service_pb2 as pb
from lorry.registry.v1 import resources_pb2 as resources
from lorry.registry.v1 import watch_service_pb2 as watch_pb
from lorry_client import names
from lorry_client._calls import registry
from lorry_client._calls.requests import LOOKUP_SECONDS, build
from lorry_client._steps import Call, Steps, ask
from lorry_client.results import Events, Version


def deprecate(reference: str, reason: str, replacement: str) -> Steps[Version]:
    def call(version: Version) -> Call[Version]:
        instead = names.reference(version.adapter, replacement) if replacement else ""
        request = build(
            pb.DeprecateVersionRequest,
            name=names.version(version.adapter, version.number),
            deprecation=build(resources.Deprecation, reason=reason, replacement=instead),
        )
        return _call(lambda stubs: stubs.registry.DeprecateVersion, request)

    return _with_version(reference, call)


def undeprecate(reference: str, why: str) -> Steps[Version]:
    return _marked(reference, why, pb.UndeprecateVersionRequest, "UndeprecateVersion")


def block(reference: str, why: str) -> Steps[Version]:
    return _marked(reference, why, pb.BlockVersionRequest, "BlockVersion")


def unblock(reference: str, why: str) -> Steps[Version]:
    return _marked(reference, why, pb.UnblockVersionRequest, "UnblockVersion")


def watch(
    namespace: str | None, resume_token: str, heartbeat_seconds: float | None
) -> Call[Events]:
    heartbeat = None
    if heartbeat_seconds is not None:
        heartbeat = Duration()
        heartbeat.FromNanoseconds(int(heartbeat_seconds * 1e9))
    request = build(
        watch_pb.WatchRequest,
        parent=names.namespace(namespace),
        resume_token=resume_token,
        heartbeat=heartbeat,
    )
    return Call(lambda stubs: stubs.watch.Watch, request, Events.read, None)


def _marked(reference: str, why: str, request: Any, method: str) -> Steps[Version]:
    def call(version: Version) -> Call[Version]:
        name = names.version(version.adapter, version.number)
        return _call(
            lambda stubs: getattr(stubs.registry, method), build(request, name=name, why=why)
        )

    return _with_version(reference, call)


def _with_version(reference: str, call: Callable[[Version], Call[Version]]) -> Steps[Version]:
    """What is asked of the version that a reference means now."""
    version = yield from ask(registry.resolve(reference))
    return (yield from ask(call(version)))


def _call(method: Callable[[Any], Any], request: Any) -> Call[Version]:
    return Call(method, request, Version.read, LOOKUP_SECONDS)
