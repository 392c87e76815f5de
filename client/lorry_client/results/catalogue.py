"""The registry's nouns: adapters, their immutable versions and the aliases that point at them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from lorry_client import names
from lorry_client.results.times import moment

if TYPE_CHECKING:
    from lorry.registry.v1 import resources_pb2 as pb

VersionState = Literal["active", "deprecated", "blocked"]

# By the number of pb.VersionState; an older registry sends none.
_STATES: dict[int, VersionState] = {1: "active", 2: "deprecated", 3: "blocked"}


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named series of versions; `name` is `namespace/name`."""

    name: str
    description: str
    labels: dict[str, str]
    latest_version: int
    create_time: datetime | None
    update_time: datetime | None
    etag: str
    annotations: dict[str, str] = field(default_factory=dict)
    delete_time: datetime | None = None  # None: it is not deleted
    purge_time: datetime | None = None  # when a deleted one goes for good

    @classmethod
    def read(cls, message: pb.Adapter) -> Adapter:
        return cls(
            name=names.short(message.name),
            description=message.description,
            labels=dict(message.labels),
            latest_version=message.latest_version,
            create_time=moment(message, "create_time"),
            update_time=moment(message, "update_time"),
            etag=message.etag,
            annotations=dict(message.annotations),
            delete_time=moment(message, "delete_time"),
            purge_time=moment(message, "purge_time"),
        )


@dataclass(frozen=True, slots=True)
class File:
    """A file of a version, by the digest of its bytes."""

    path: str
    digest: str
    size_bytes: int
    media_type: str = ""

    @classmethod
    def read(cls, message: pb.File) -> File:
        return cls(message.path, message.digest, message.size_bytes, message.media_type)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set in a lineage."""

    name: str
    digest: str
    split: str
    row_count: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version comes from."""

    base_fingerprint: str = ""
    base_name: str = ""
    recipe: str = ""
    datasets: tuple[Dataset, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    producer: str = ""
    code_revision: str = ""

    @classmethod
    def read(cls, message: pb.Lineage) -> Lineage:
        return cls(
            base_fingerprint=message.base_fingerprint,
            base_name=message.base_name,
            recipe=message.recipe,
            datasets=tuple(
                Dataset(one.name, one.digest, one.split, one.row_count) for one in message.datasets
            ),
            metrics=dict(message.metrics),
            parents=tuple(message.parents),
            producer=message.producer,
            code_revision=message.code_revision,
        )


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """What the registry's checks read from a version's files."""

    peft_type: str
    max_rank: int
    module_count: int
    parameter_count: int
    size_bytes: int
    rank_stabilized: bool

    @classmethod
    def read(cls, message: pb.AdapterSpec) -> AdapterSpec:
        return cls(
            message.peft_type,
            message.max_rank,
            message.module_count,
            message.parameter_count,
            message.size_bytes,
            message.rank_stabilized,
        )


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Why a version should not be used any more, and a reference to what should be; empty where nothing is named."""

    reason: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of adapter files; `adapter` is `namespace/name`."""

    adapter: str
    number: int
    digest: str
    files: tuple[File, ...]
    lineage: Lineage
    spec: AdapterSpec
    description: str
    create_time: datetime | None
    state: VersionState = "active"
    deprecation: Deprecation | None = None
    block_reason: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    update_time: datetime | None = None
    etag: str = ""
    delete_time: datetime | None = None  # None: it is not deleted
    purge_time: datetime | None = None  # when a deleted one goes for good

    @property
    def reference(self) -> str:
        """The reference that will always mean this version: `namespace/name@sha256:…`."""
        return f"{self.adapter}@{self.digest}"

    @property
    def size_bytes(self) -> int:
        """The bytes of all its files."""
        return sum(file.size_bytes for file in self.files)

    @classmethod
    def read(cls, message: pb.Version) -> Version:
        return cls(
            adapter=names.short(message.name),
            number=message.number,
            digest=message.digest,
            files=tuple(File.read(file) for file in message.files),
            lineage=Lineage.read(message.lineage),
            spec=AdapterSpec.read(message.spec),
            description=message.description,
            create_time=moment(message, "create_time"),
            state=_STATES.get(message.state, "active"),
            deprecation=Deprecation(message.deprecation.reason, message.deprecation.replacement)
            if message.HasField("deprecation")
            else None,
            block_reason=message.block_reason or None,
            labels=dict(message.labels),
            annotations=dict(message.annotations),
            update_time=moment(message, "update_time"),
            etag=message.etag,
            delete_time=moment(message, "delete_time"),
            purge_time=moment(message, "purge_time"),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a version was found to be good for, after it was published."""

    number: int
    title: str
    metrics: dict[str, float]
    dataset: Dataset | None
    description: str
    principal: str
    create_time: datetime | None

    @classmethod
    def read(cls, message: pb.Evaluation) -> Evaluation:
        told = message.dataset
        return cls(
            number=message.number,
            title=message.title,
            metrics=dict(message.metrics),
            dataset=Dataset(told.name, told.digest, told.split, told.row_count)
            if message.HasField("dataset")
            else None,
            description=message.description,
            principal=message.principal,
            create_time=moment(message, "create_time"),
        )


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """One version that an alias points at, and its share of the requests."""

    version: int
    digest: str
    weight: int

    @classmethod
    def read(cls, message: pb.AliasTarget) -> AliasTarget:
        return cls(message.version, message.digest, message.weight or 1)


@dataclass(frozen=True, slots=True)
class Alias:
    """A mutable pointer; `adapter` is `namespace/name`, `name` the alias alone."""

    adapter: str
    name: str
    targets: tuple[AliasTarget, ...]
    update_time: datetime | None
    etag: str

    @classmethod
    def read(cls, message: pb.Alias) -> Alias:
        return cls(
            adapter=names.short(message.name),
            name=message.name.rpartition("/")[2],
            targets=tuple(AliasTarget.read(one) for one in message.targets),
            update_time=moment(message, "update_time"),
            etag=message.etag,
        )


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A move of an alias: `from_targets` is empty where it was made, `to_targets` where it was deleted.

    Attributes:
        restores: of a rollback, the number of the move whose outcome it brought back; None of any other move.
    """

    number: int
    time: datetime | None
    principal: str
    why: str
    from_targets: tuple[AliasTarget, ...]
    to_targets: tuple[AliasTarget, ...]
    restores: int | None

    @classmethod
    def read(cls, message: pb.AliasMove) -> AliasMove:
        return cls(
            number=message.number,
            time=moment(message, "move_time"),
            principal=message.principal,
            why=message.why,
            from_targets=tuple(AliasTarget.read(one) for one in message.from_targets),
            to_targets=tuple(AliasTarget.read(one) for one in message.to_targets),
            restores=message.restores or None,
        )
