"""What is said of versions after they were published, and the events that tell of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.duration_pb2 import Duration

from lorry.registry.v1 import registry_service_pb2 as pb
from lorry.registry.v1 import resources_pb2 as resources
from lorry.registry.v1 import watch_service_pb2 as watch_pb
from lorry_client import names
from lorry_client._calls import registry
from lorry_client._calls.requests import LOOKUP_SECONDS, PUBLISH_SECONDS, build
from lorry_client._card import render_card
from lorry_client._steps import Call, Page, Steps, all_pages, ask
from lorry_client.results import Comparison, Dataset, Evaluation, Events, LineageGraph, Version


def update(
    reference: str,
    description: str | None,
    labels: Mapping[str, str] | None,
    annotations: Mapping[str, str] | None,
    etag: str | None,
) -> Steps[Version]:
    fields = {"description": description, "labels": labels, "annotations": annotations}
    mask = registry.mask_of(fields)

    def call(version: Version) -> Call[Version]:
        name = names.version(version.adapter, version.number)
        request = build(
            pb.UpdateVersionRequest,
            version=build(resources.Version, name=name, etag=etag, **fields),
            update_mask=mask,
        )
        return _call(lambda stubs: stubs.registry.UpdateVersion, request)

    return _with_version(reference, call)


def add_evaluation(
    reference: str,
    title: str,
    metrics: Mapping[str, float],
    dataset: Dataset | None,
    description: str,
) -> Steps[Evaluation]:
    version = yield from ask(registry.resolve(reference))
    told = None if dataset is None else build(resources.Dataset, **asdict(dataset))
    request = build(
        pb.CreateEvaluationRequest,
        parent=names.version(version.adapter, version.number),
        evaluation=build(
            resources.Evaluation,
            title=title,
            metrics=metrics,
            dataset=told,
            description=description,
        ),
    )
    return (
        yield from ask(
            Call(
                lambda stubs: stubs.registry.CreateEvaluation,
                request,
                Evaluation.read,
                LOOKUP_SECONDS,
            )
        )
    )


def evaluations(reference: str) -> Steps[list[Evaluation]]:
    version = yield from ask(registry.resolve(reference))
    parent = names.version(version.adapter, version.number)

    def page(token: str) -> Call[Page[Evaluation]]:
        request = pb.ListEvaluationsRequest(parent=parent, page_size=1000, page_token=token)
        return Call(
            lambda stubs: stubs.registry.ListEvaluations,
            request,
            lambda answer: Page(
                [Evaluation.read(one) for one in answer.evaluations], answer.next_page_token
            ),
            LOOKUP_SECONDS,
        )

    return (yield from all_pages(page))


def lineage(reference: str) -> Steps[LineageGraph]:
    version = yield from ask(registry.resolve(reference))
    request = build(pb.GetLineageGraphRequest, name=names.version(version.adapter, version.number))
    return (
        yield from ask(
            Call(
                lambda stubs: stubs.registry.GetLineageGraph,
                request,
                LineageGraph.read,
                LOOKUP_SECONDS,
            )
        )
    )


def compare(first: str, second: str) -> Call[Comparison]:
    request = build(pb.CompareVersionsRequest, first_reference=first, second_reference=second)
    return Call(
        lambda stubs: stubs.registry.CompareVersions, request, Comparison.read, PUBLISH_SECONDS
    )


def card(reference: str) -> Steps[str]:
    version = yield from ask(registry.resolve(reference))
    return render_card(version, (yield from evaluations(version.reference)))


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
    namespace: str | None, resume_token: str, filter_: str, heartbeat_seconds: float | None
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
        filter=filter_,
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
