"""The tables. Rows never leave this package: `rows` turns them into entities.

A change here needs a revision in `migrations/`, whose README says how; a test holds the two against each other. Only
types and constraints that SQLite and PostgreSQL share; constraints are named by one convention, so that a revision
can refer to them. Collections are loaded when they are read; lists load those of all their rows together.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    MetaData,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from lorry_registry.sql.columns import UtcDateTime, text

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Row(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's own way)
        datetime: UtcDateTime,
        str: text(),
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class AdapterRow(Row):
    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        Index(None, "create_time"),
        Index(None, "update_time"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    description: Mapped[str]
    latest_version: Mapped[int] = mapped_column(default=0)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    etag: Mapped[str]
    annotations: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    delete_time: Mapped[datetime | None]  # None: it is not deleted
    purge_time: Mapped[datetime | None] = mapped_column(index=True)

    labels: Mapped[list["AdapterLabelRow"]] = relationship(
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="AdapterLabelRow.key",
    )


class AdapterLabelRow(Row):
    """Labels are rows, not JSON, so that both databases find adapters by them with an index."""

    __tablename__ = "adapter_labels"
    __table_args__ = (Index(None, "key", "value"),)

    adapter_id: Mapped[int] = mapped_column(
        ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class VersionRow(Row):
    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("adapter_id", "digest"),
        Index(None, "base_fingerprint", "adapter_id"),
        Index(None, "create_time"),
        Index(None, "digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id", ondelete="CASCADE"))
    number: Mapped[int]
    digest: Mapped[str]
    description: Mapped[str]
    base_fingerprint: Mapped[str]  # out of the lineage, to be found by
    lineage: Mapped[dict[str, Any]]
    peft_type: Mapped[str]
    max_rank: Mapped[int]
    module_count: Mapped[int]
    parameter_count: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    rank_stabilized: Mapped[bool]
    create_time: Mapped[datetime]
    deprecation_reason: Mapped[str | None]  # None: not deprecated
    replacement: Mapped[str] = mapped_column(default="", server_default="")
    block_reason: Mapped[str | None]  # None: not blocked
    annotations: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    update_time: Mapped[datetime | None]
    etag: Mapped[str] = mapped_column(default="", server_default="")
    delete_time: Mapped[datetime | None]  # None: it is not deleted
    purge_time: Mapped[datetime | None] = mapped_column(index=True)

    adapter: Mapped[AdapterRow] = relationship(lazy="joined", innerjoin=True)
    labels: Mapped[list["VersionLabelRow"]] = relationship(
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="selectin",
        order_by="VersionLabelRow.key",
    )
    files: Mapped[list["VersionFileRow"]] = relationship(
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="VersionFileRow.path",
    )


class VersionLabelRow(Row):
    """As those of adapters."""

    __tablename__ = "version_labels"
    __table_args__ = (Index(None, "key", "value"),)

    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class EvaluationRow(Row):
    __tablename__ = "evaluations"
    __table_args__ = (UniqueConstraint("version_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id", ondelete="CASCADE"))
    number: Mapped[int]
    title: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    dataset: Mapped[dict[str, Any]]
    description: Mapped[str]
    principal: Mapped[str]
    create_time: Mapped[datetime]

    version: Mapped[VersionRow] = relationship(lazy="joined", innerjoin=True)


class VersionFileRow(Row):
    __tablename__ = "version_files"

    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(index=True)  # which blobs are in use
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str]


class AliasRow(Row):
    __tablename__ = "aliases"
    __table_args__ = (UniqueConstraint("adapter_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id", ondelete="CASCADE"))
    name: Mapped[str]
    update_time: Mapped[datetime]
    etag: Mapped[str]

    adapter: Mapped[AdapterRow] = relationship(lazy="joined", innerjoin=True)
    targets: Mapped[list["AliasTargetRow"]] = relationship(
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="selectin",
        order_by="AliasTargetRow.position",
    )


class AliasTargetRow(Row):
    __tablename__ = "alias_targets"

    alias_id: Mapped[int] = mapped_column(
        ForeignKey("aliases.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(
        ForeignKey("versions.id", ondelete="CASCADE"), index=True
    )
    weight: Mapped[int]

    version: Mapped[VersionRow] = relationship(lazy="joined", innerjoin=True)


class AliasMoveRow(Row):
    """What the alias pointed at is written out, not referred to: a move outlives its alias and its versions."""

    __tablename__ = "alias_moves"
    __table_args__ = (UniqueConstraint("adapter_id", "alias", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id", ondelete="CASCADE"))
    alias: Mapped[str]
    number: Mapped[int]
    time: Mapped[datetime]
    principal: Mapped[str]
    why: Mapped[str]
    before: Mapped[list[Any]]  # [version, digest, weight] each
    after: Mapped[list[Any]]
    restores: Mapped[int]

    adapter: Mapped[AdapterRow] = relationship(lazy="joined", innerjoin=True)


class EventRow(Row):
    """A change, with what it was about written out: it outlives what it happened to."""

    __tablename__ = "events"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str]
    time: Mapped[datetime]
    principal: Mapped[str]
    namespace: Mapped[str]
    adapter: Mapped[str]
    about: Mapped[dict[str, Any]]


class EventLogRow(Row):
    """The one row that gives events their positions."""

    __tablename__ = "event_log"

    id: Mapped[int] = mapped_column(primary_key=True)
    log_id: Mapped[str]
    position: Mapped[int] = mapped_column(BigInteger)  # of the newest event
    dropped: Mapped[int] = mapped_column(BigInteger)  # the newest position that is no longer kept


class BaseRow(Row):
    __tablename__ = "bases"

    id: Mapped[int] = mapped_column(primary_key=True)  # the order in which bases became known
    fingerprint: Mapped[str] = mapped_column(unique=True)
    display_name: Mapped[str]
    architecture: Mapped[str]
    quantization: Mapped[str]
    modules: Mapped[list[Any]]  # [path, in_features, out_features] each
    parameters: Mapped[list[Any] | None]  # [path, shape, tied_to] each; NULL: not announced
    max_rank: Mapped[int]
    context_length: Mapped[int]
    create_time: Mapped[datetime]


class TokenRow(Row):
    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)  # the order of creation
    token_id: Mapped[str] = mapped_column(unique=True)
    secret_hash: Mapped[str]
    display_name: Mapped[str]
    grants: Mapped[list[Any]]  # `role:namespace` each
    created_by: Mapped[str]
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime | None]
    revoke_time: Mapped[datetime | None]


class NamespaceRow(Row):
    """One that somebody created; others exist by the adapters that name them."""

    __tablename__ = "namespaces"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str]
    max_adapters: Mapped[int] = mapped_column(BigInteger)
    max_versions: Mapped[int] = mapped_column(BigInteger)
    max_bytes: Mapped[int] = mapped_column(BigInteger)
    requests_per_minute: Mapped[int] = mapped_column(BigInteger)
    tokens_per_minute: Mapped[int] = mapped_column(BigInteger)
    create_time: Mapped[datetime]
    etag: Mapped[str]


class UploadRow(Row):
    """A blob that a principal brought, and that no version of its names yet."""

    __tablename__ = "uploads"

    principal: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    create_time: Mapped[datetime]


class AuditRow(Row):
    """Only ever added to: triggers refuse the rest."""

    __tablename__ = "audit_events"
    __table_args__ = (Index(None, "namespace", "id"), Index(None, "principal", "id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[datetime]
    principal: Mapped[str]
    peer: Mapped[str]
    action: Mapped[str]
    namespace: Mapped[str]
    resource: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str]
