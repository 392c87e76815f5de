"""The nouns of the catalogue as plain values.

What the SQL store keeps (rows) and what travels (protos) stay in their own layers; between them only these pass.
They know neither. Times are timezone-aware UTC, sizes are bytes, digests are `sha256:` and 64 hex digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """Which adapter: the two ids that its resource name is made of."""

    namespace: str
    adapter_id: str

    @property
    def resource_name(self) -> str:
        return f"namespaces/{self.namespace}/adapters/{self.adapter_id}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.adapter_id}"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named series of versions."""

    key: AdapterKey
    description: str
    labels: Mapping[str, str]
    latest_version: int  # 0 while there is none
    create_time: datetime
    update_time: datetime
    etag: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    delete_time: datetime | None = None  # None: it is not deleted
    purge_time: datetime | None = None  # when a deleted one goes for good


@dataclass(frozen=True, slots=True)
class File:
    """A file of a version: its name in the adapter folder and the blob that holds its bytes."""

    path: str
    digest: str
    size_bytes: int
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """What the checks read from an adapter's files."""

    peft_type: str
    max_rank: int
    module_count: int
    parameter_count: int
    size_bytes: int  # of the tensors alone
    rank_stabilized: bool


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that a version was trained or scored on."""

    name: str
    digest: str = ""
    split: str = ""
    row_count: int = 0


@dataclass(frozen=True, slots=True)
class Lineage:
    """How a version came to be, as far as its publisher tells. It is no part of the version's digest."""

    base_fingerprint: str = ""
    base_name: str = ""
    recipe: str = ""
    datasets: tuple[Dataset, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    producer: str = ""
    code_revision: str = ""


class VersionState(StrEnum):
    """Whether a version may be used, and should be."""

    ACTIVE = "ACTIVE"
    DEPRECATED = "DEPRECATED"
    BLOCKED = "BLOCKED"


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Why a version should not be used any more, and a reference to what should be, where there is something."""

    reason: str
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of adapter files, with what is said of it since."""

    key: AdapterKey
    number: int  # 0 in the answer to a dry run: nothing was published
    digest: str
    files: tuple[File, ...]
    lineage: Lineage
    spec: AdapterSpec
    description: str
    create_time: datetime
    deprecation: Deprecation | None = None
    block_reason: str | None = None  # None: it may be used
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    update_time: datetime | None = None  # None: nothing was said of it since it was published
    etag: str = ""
    delete_time: datetime | None = None  # None: it is not deleted
    purge_time: datetime | None = None  # when a deleted one goes for good

    @property
    def state(self) -> VersionState:
        if self.block_reason is not None:
            return VersionState.BLOCKED
        return VersionState.ACTIVE if self.deprecation is None else VersionState.DEPRECATED


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a version was found to be good for, after it was published."""

    key: AdapterKey
    version: int
    number: int  # 1, 2, 3 …
    title: str
    metrics: Mapping[str, float]
    dataset: Dataset  # with an empty name where it was not told
    description: str
    principal: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """One version that an alias points at, and its share. `digest` is filled in by the store."""

    version: int
    digest: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Alias:
    """A mutable pointer to versions of one adapter."""

    key: AdapterKey
    alias_id: str
    targets: tuple[AliasTarget, ...]
    update_time: datetime
    etag: str

    @property
    def resource_name(self) -> str:
        return f"{self.key.resource_name}/aliases/{self.alias_id}"


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A move of an alias: `before` is empty where it was made, `after` where it was deleted."""

    key: AdapterKey
    alias_id: str
    number: int  # 1, 2, 3 …; goes on where the alias is deleted and made anew
    time: datetime
    principal: str
    why: str
    before: tuple[AliasTarget, ...]
    after: tuple[AliasTarget, ...]
    restores: int = 0  # of a rollback: the move, itself no rollback, whose outcome it brought back


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reference means now: versions with their shares of the requests, at least one."""

    versions: tuple[tuple[Version, int], ...]
    salt: str  # what sticky keys are hashed with; the same however an alias moves


@dataclass(frozen=True, slots=True)
class LinearModule:
    """A linear layer of a base; `in_features` and `out_features` whatever the layout its class stores them in."""

    path: str
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a base that an adapter may change for its own requests: it is kept as it is, not quantized."""

    path: str  # `model.norm.weight`
    shape: tuple[int, ...]
    tied_to: str = ""  # the path of the parameter that it shares its memory with

    @property
    def is_heads(self) -> bool:
        """Whether it is a head's: the base has none itself, and an adapter brings it with any number of outputs."""
        return self.shape[0] == 0


@dataclass(frozen=True, slots=True)
class Base:
    """A base that some server has loaded, or that was announced without one: what uploads are checked against."""

    fingerprint: str
    display_name: str
    architecture: str
    quantization: str
    modules: tuple[LinearModule, ...]
    max_rank: int  # the largest cap that a server announced; 0: none did
    context_length: int
    parameters: tuple[Parameter, ...] = ()  # empty: a server of an older version announced it
    create_time: datetime | None = None  # None until the store has seen it
