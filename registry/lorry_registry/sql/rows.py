"""Rows to entities, and the JSON of a lineage."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from lorry_registry.entities import (
    Adapter,
    AdapterKey,
    AdapterSpec,
    Alias,
    AliasMove,
    AliasTarget,
    Base,
    Dataset,
    Deprecation,
    Evaluation,
    File,
    Lineage,
    LinearModule,
    Parameter,
    Version,
)
from lorry_registry.events import Event, EventKind
from lorry_registry.sql.models import (
    AdapterRow,
    AliasMoveRow,
    AliasRow,
    BaseRow,
    EvaluationRow,
    EventRow,
    VersionRow,
)


def to_key(row: AdapterRow) -> AdapterKey:
    return AdapterKey(row.namespace, row.name)


def to_adapter(row: AdapterRow) -> Adapter:
    return Adapter(
        key=to_key(row),
        description=row.description,
        labels={label.key: label.value for label in row.labels},
        latest_version=row.latest_version,
        create_time=row.create_time,
        update_time=row.update_time,
        etag=row.etag,
        annotations=row.annotations,
        delete_time=row.delete_time,
        purge_time=row.purge_time,
    )


def to_version(row: VersionRow) -> Version:
    return Version(
        key=to_key(row.adapter),
        number=row.number,
        digest=row.digest,
        files=tuple(
            File(file.path, file.digest, file.size_bytes, file.media_type) for file in row.files
        ),
        lineage=lineage_from_json(row.lineage),
        spec=AdapterSpec(
            peft_type=row.peft_type,
            max_rank=row.max_rank,
            module_count=row.module_count,
            parameter_count=row.parameter_count,
            size_bytes=row.size_bytes,
            rank_stabilized=row.rank_stabilized,
        ),
        description=row.description,
        create_time=row.create_time,
        deprecation=None
        if row.deprecation_reason is None
        else Deprecation(row.deprecation_reason, row.replacement),
        block_reason=row.block_reason,
        labels={label.key: label.value for label in row.labels},
        annotations=row.annotations,
        update_time=row.update_time,
        etag=row.etag,
        delete_time=row.delete_time,
        purge_time=row.purge_time,
    )


def to_evaluation(row: EvaluationRow) -> Evaluation:
    return Evaluation(
        key=to_key(row.version.adapter),
        version=row.version.number,
        number=row.number,
        title=row.title,
        metrics=row.metrics,
        dataset=Dataset(**row.dataset),
        description=row.description,
        principal=row.principal,
        create_time=row.create_time,
    )


def to_alias(row: AliasRow) -> Alias:
    return Alias(
        key=to_key(row.adapter),
        alias_id=row.name,
        targets=tuple(
            AliasTarget(target.version.number, target.version.digest, target.weight)
            for target in row.targets
        ),
        update_time=row.update_time,
        etag=row.etag,
    )


def to_move(row: AliasMoveRow) -> AliasMove:
    return AliasMove(
        key=to_key(row.adapter),
        alias_id=row.alias,
        number=row.number,
        time=row.time,
        principal=row.principal,
        why=row.why,
        before=targets_from_json(row.before),
        after=targets_from_json(row.after),
        restores=row.restores,
    )


def to_event(row: EventRow) -> Event:
    """Fields that an older writer did not know are empty."""
    return Event(
        position=row.position,
        kind=EventKind(row.kind),
        time=row.time,
        principal=row.principal,
        key=AdapterKey(row.namespace, row.adapter),
        **{**row.about, "targets": targets_from_json(row.about.get("targets", ()))},
    )


def to_base(row: BaseRow) -> Base:
    return Base(
        fingerprint=row.fingerprint,
        display_name=row.display_name,
        architecture=row.architecture,
        quantization=row.quantization,
        modules=tuple(LinearModule(*module) for module in row.modules),
        max_rank=row.max_rank,
        context_length=row.context_length,
        parameters=tuple(
            Parameter(path, tuple(shape), tied_to) for path, shape, tied_to in row.parameters or ()
        ),
        create_time=row.create_time,
    )


def targets_to_json(targets: Iterable[AliasTarget]) -> list[Any]:
    return [[target.version, target.digest, target.weight] for target in targets]


def targets_from_json(value: Iterable[Any]) -> tuple[AliasTarget, ...]:
    return tuple(AliasTarget(*target) for target in value)


def dataset_to_json(dataset: Dataset) -> dict[str, Any]:
    return asdict(dataset)


def lineage_to_json(lineage: Lineage) -> dict[str, Any]:
    return {**asdict(lineage), "metrics": dict(lineage.metrics)}


def lineage_from_json(value: Mapping[str, Any]) -> Lineage:
    """Fields that an older writer did not know are empty."""
    return Lineage(
        **{
            **value,
            "datasets": tuple(Dataset(**dataset) for dataset in value.get("datasets", ())),
            "parents": tuple(value.get("parents", ())),
        }
    )
