"""Entities to protos and back. Output-only fields in what callers send are ignored."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from lorry.registry.v1 import resources_pb2 as pb
from lorry.registry.v1 import watch_service_pb2 as watch_pb
from lorry_registry import entities, references
from lorry_registry.errors import InvalidArgument
from lorry_registry.events import Event, EventKind

_MUTABLE = ("description", "labels", "annotations")


def adapter_to_proto(adapter: entities.Adapter) -> pb.Adapter:
    return pb.Adapter(
        name=adapter.key.resource_name,
        description=adapter.description,
        labels=dict(adapter.labels),
        latest_version=adapter.latest_version,
        create_time=_timestamp(adapter.create_time),
        update_time=_timestamp(adapter.update_time),
        etag=adapter.etag,
        annotations=dict(adapter.annotations),
        delete_time=_timestamp(adapter.delete_time),
        purge_time=_timestamp(adapter.purge_time),
    )


def version_to_proto(version: entities.Version) -> pb.Version:
    name = f"{version.key.resource_name}/versions/{version.number}" if version.number else ""
    return pb.Version(
        name=name,
        number=version.number,
        digest=version.digest,
        files=[
            pb.File(
                path=file.path,
                digest=file.digest,
                size_bytes=file.size_bytes,
                media_type=file.media_type,
            )
            for file in version.files
        ],
        lineage=_lineage_to_proto(version.lineage),
        spec=pb.AdapterSpec(
            peft_type=version.spec.peft_type,
            max_rank=version.spec.max_rank,
            module_count=version.spec.module_count,
            parameter_count=version.spec.parameter_count,
            size_bytes=version.spec.size_bytes,
            rank_stabilized=version.spec.rank_stabilized,
        ),
        description=version.description,
        create_time=_timestamp(version.create_time),
        state=f"VERSION_STATE_{version.state.value}",
        deprecation=None
        if version.deprecation is None
        else pb.Deprecation(
            reason=version.deprecation.reason, replacement=version.deprecation.replacement
        ),
        block_reason=version.block_reason or "",
        labels=dict(version.labels),
        annotations=dict(version.annotations),
        update_time=_timestamp(version.update_time or version.create_time),
        etag=version.etag,
        delete_time=_timestamp(version.delete_time),
        purge_time=_timestamp(version.purge_time),
    )


def files_from_proto(files: Sequence[pb.File]) -> list[entities.File]:
    return [
        entities.File(file.path, file.digest, file.size_bytes, file.media_type) for file in files
    ]


def lineage_from_proto(lineage: pb.Lineage) -> entities.Lineage:
    return entities.Lineage(
        base_fingerprint=lineage.base_fingerprint,
        base_name=lineage.base_name,
        recipe=lineage.recipe,
        datasets=tuple(map(dataset_from_proto, lineage.datasets)),
        metrics=dict(lineage.metrics),
        parents=tuple(lineage.parents),
        producer=lineage.producer,
        code_revision=lineage.code_revision,
    )


def alias_to_proto(alias: entities.Alias) -> pb.Alias:
    return pb.Alias(
        name=alias.resource_name,
        targets=_targets_to_proto(alias.targets),
        update_time=_timestamp(alias.update_time),
        etag=alias.etag,
    )


def move_to_proto(move: entities.AliasMove) -> pb.AliasMove:
    return pb.AliasMove(
        name=f"{move.key.resource_name}/aliases/{move.alias_id}/moves/{move.number}",
        number=move.number,
        move_time=_timestamp(move.time),
        principal=move.principal,
        why=move.why,
        from_targets=_targets_to_proto(move.before),
        to_targets=_targets_to_proto(move.after),
        restores=move.restores,
    )


def event_to_proto(event: Event) -> watch_pb.Event:
    return watch_pb.Event(
        position=event.position,
        kind=f"EVENT_KIND_{event.kind.value}",
        event_time=_timestamp(event.time),
        principal=event.principal,
        adapter=event.key.resource_name,
        version=event.version,
        digest=event.digest,
        alias=event.alias,
        targets=_targets_to_proto(event.targets),
        why=event.why,
    )


def event_from_proto(event: watch_pb.Event) -> Event:
    """What a newer registry calls by a name that is not known here has changed the adapter in some way."""
    kind = EventKind.ADAPTER_UPDATED
    with suppress(ValueError):
        kind = EventKind(watch_pb.EventKind.Name(event.kind).removeprefix("EVENT_KIND_"))
    return Event(
        position=event.position,
        kind=kind,
        time=event.event_time.ToDatetime(tzinfo=UTC),
        principal=event.principal,
        key=references.parse_adapter_name(event.adapter),
        version=event.version,
        digest=event.digest,
        alias=event.alias,
        targets=tuple(
            entities.AliasTarget(one.version, one.digest, one.weight) for one in event.targets
        ),
        why=event.why,
    )


def weighted_to_proto(version: entities.Version, weight: int) -> pb.WeightedVersion:
    """With little of the lineage: several long ones would be more than a message holds."""
    lineage = entities.Lineage(
        base_fingerprint=version.lineage.base_fingerprint, base_name=version.lineage.base_name
    )
    return pb.WeightedVersion(
        version=version_to_proto(replace(version, lineage=lineage)), weight=weight
    )


def _targets_to_proto(targets: Sequence[entities.AliasTarget]) -> list[pb.AliasTarget]:
    return [pb.AliasTarget(version=t.version, digest=t.digest, weight=t.weight) for t in targets]


def targets_from_proto(targets: Sequence[pb.AliasTarget]) -> list[entities.AliasTarget]:
    return [entities.AliasTarget(version=t.version, weight=t.weight) for t in targets]


def base_to_proto(base: entities.Base) -> pb.Base:
    return pb.Base(
        name=f"bases/{base.fingerprint}",
        fingerprint=base.fingerprint,
        display_name=base.display_name,
        architecture=base.architecture,
        quantization=base.quantization,
        modules=[
            pb.LinearModule(
                path=module.path, in_features=module.in_features, out_features=module.out_features
            )
            for module in base.modules
        ],
        max_rank=base.max_rank,
        context_length=base.context_length,
        parameters=[
            pb.Parameter(path=each.path, shape=each.shape, tied_to=each.tied_to)
            for each in base.parameters
        ],
        create_time=None if base.create_time is None else _timestamp(base.create_time),
    )


def base_from_proto(base: pb.Base) -> entities.Base:
    return entities.Base(
        fingerprint=base.fingerprint,
        display_name=base.display_name,
        architecture=base.architecture,
        quantization=base.quantization,
        modules=tuple(
            entities.LinearModule(m.path, m.in_features, m.out_features) for m in base.modules
        ),
        max_rank=base.max_rank,
        context_length=base.context_length,
        parameters=tuple(
            entities.Parameter(each.path, tuple(each.shape), each.tied_to)
            for each in base.parameters
        ),
    )


def changes(message: pb.Adapter | pb.Version, paths: Sequence[str]) -> dict[str, Any]:
    """What an update sets, by the rules of update masks: of description, labels and annotations, those that change.

    No paths means the fields that are set; `*` means all that can be set.

    Raises:
        InvalidArgument: `UPDATE_MASK_INVALID` naming a path that cannot be updated.
    """
    for path in paths:
        if path not in _MUTABLE and path != "*":
            raise InvalidArgument(
                f"update_mask: {path!r} cannot be updated; use {', '.join(_MUTABLE)} or *",
                reason="UPDATE_MASK_INVALID",
                path=path,
            )
    changed: dict[str, Any] = {}
    for field in _MUTABLE:
        value = getattr(message, field)
        if field in paths or "*" in paths or (not paths and value):
            changed[field] = value if field == "description" else dict(value)
    return changed


def evaluation_to_proto(evaluation: entities.Evaluation) -> pb.Evaluation:
    version = f"{evaluation.key.resource_name}/versions/{evaluation.version}"
    dataset = evaluation.dataset
    told = dataset != entities.Dataset("")
    return pb.Evaluation(
        name=f"{version}/evaluations/{evaluation.number}",
        number=evaluation.number,
        title=evaluation.title,
        metrics=dict(evaluation.metrics),
        dataset=_dataset_to_proto(dataset) if told else None,
        description=evaluation.description,
        principal=evaluation.principal,
        create_time=_timestamp(evaluation.create_time),
    )


def dataset_from_proto(dataset: pb.Dataset) -> entities.Dataset:
    return entities.Dataset(dataset.name, dataset.digest, dataset.split, dataset.row_count)


def _dataset_to_proto(dataset: entities.Dataset) -> pb.Dataset:
    return pb.Dataset(
        name=dataset.name,
        digest=dataset.digest,
        split=dataset.split,
        row_count=dataset.row_count,
    )


def _lineage_to_proto(lineage: entities.Lineage) -> pb.Lineage:
    return pb.Lineage(
        base_fingerprint=lineage.base_fingerprint,
        base_name=lineage.base_name,
        recipe=lineage.recipe,
        datasets=map(_dataset_to_proto, lineage.datasets),
        metrics=dict(lineage.metrics),
        parents=lineage.parents,
        producer=lineage.producer,
        code_revision=lineage.code_revision,
    )


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
