"""The Store's verbs over SQLAlchemy.

Every change to an adapter, its versions or its aliases first locks the adapter's row (`lock_adapter`); on SQLite,
which has no row locks, a writing transaction holds the one write lock from its start. Checking an etag and then
changing the row is therefore safe, and numbers come out without gaps.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Engine, delete, exists, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lorry_registry.entities import (
    Adapter,
    AdapterKey,
    AdapterSpec,
    Alias,
    AliasTarget,
    Base,
    File,
    Lineage,
    Version,
)
from lorry_registry.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from lorry_registry.filters import AdapterFilter
from lorry_registry.sql import rows
from lorry_registry.sql.database import WRITE, storage_errors
from lorry_registry.sql.lookups import (
    adapter_row,
    alias_row,
    base_row,
    check_etag,
    find_alias,
    lock_adapter,
    new_etag,
    now_utc,
    stale_etag,
    version_row,
)
from lorry_registry.sql.models import (
    AdapterLabelRow,
    AdapterRow,
    AliasRow,
    AliasTargetRow,
    BaseRow,
    VersionFileRow,
    VersionRow,
)
from lorry_registry.store import NEW_ONLY


class SqlStore:
    """A Store on `engine`, whose schema is in place."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        self._engine.dispose()

    # Adapters.

    def create_adapter(
        self, key: AdapterKey, *, description: str, labels: Mapping[str, str]
    ) -> Adapter:
        now = now_utc()
        row = AdapterRow(
            namespace=key.namespace,
            name=key.adapter_id,
            description=description,
            latest_version=0,
            labels=[AdapterLabelRow(key=k, value=v) for k, v in labels.items()],
            create_time=now,
            update_time=now,
            etag=new_etag(),
        )
        try:
            with self._write() as session:
                session.add(row)
                session.flush()
                return rows.to_adapter(row)
        except IntegrityError as error:
            raise AlreadyExists(
                f"adapter {key} exists already: choose another name, or publish a version to it",
                reason="ADAPTER_EXISTS",
                adapter=key,
            ) from error

    def get_adapter(self, key: AdapterKey) -> Adapter:
        with self._read() as session:
            return rows.to_adapter(adapter_row(session, key))

    def list_adapters(
        self,
        namespace: str | None,
        *,
        where: AdapterFilter,
        after: AdapterKey | None,
        limit: int,
    ) -> list[Adapter]:
        query = select(AdapterRow).order_by(AdapterRow.namespace, AdapterRow.name).limit(limit)
        if namespace is not None:
            query = query.where(AdapterRow.namespace == namespace)
        if after is not None:
            query = query.where(
                tuple_(AdapterRow.namespace, AdapterRow.name) > (after.namespace, after.adapter_id)
            )
        for name in where.names:
            query = query.where(AdapterRow.name == name)
        for prefix in where.name_prefixes:
            query = query.where(AdapterRow.name.startswith(prefix, autoescape=True))
        for label, value in where.labels:
            query = query.where(
                exists().where(
                    AdapterLabelRow.adapter_id == AdapterRow.id,
                    AdapterLabelRow.key == label,
                    AdapterLabelRow.value == value,
                )
            )
        for fingerprint in where.bases:
            query = query.where(
                exists().where(
                    VersionRow.adapter_id == AdapterRow.id,
                    VersionRow.base_fingerprint == fingerprint,
                )
            )
        with self._read() as session:
            return [rows.to_adapter(row) for row in session.scalars(query)]

    def update_adapter(
        self,
        key: AdapterKey,
        *,
        description: str | None,
        labels: Mapping[str, str] | None,
        etag: str,
    ) -> Adapter:
        with self._write() as session:
            row = lock_adapter(session, key)
            check_etag(row.etag, etag, f"adapter {key}")
            if description is not None:
                row.description = description
            if labels is not None:
                session.execute(delete(AdapterLabelRow).where(AdapterLabelRow.adapter_id == row.id))
                session.expire(row, ["labels"])
                session.add_all(
                    AdapterLabelRow(adapter_id=row.id, key=k, value=v) for k, v in labels.items()
                )
            row.etag = new_etag()
            row.update_time = now_utc()
            session.flush()
            return rows.to_adapter(row)

    def delete_adapter(self, key: AdapterKey, *, force: bool, etag: str) -> None:
        with self._write() as session:
            row = lock_adapter(session, key)
            check_etag(row.etag, etag, f"adapter {key}")
            if row.latest_version and not force:
                raise FailedPrecondition(
                    f"adapter {key} has versions: set force to delete them with it",
                    reason="ADAPTER_HAS_VERSIONS",
                    adapter=key,
                )
            session.execute(delete(AdapterRow).where(AdapterRow.id == row.id))

    # Versions.

    def create_version(
        self,
        key: AdapterKey,
        *,
        digest: str,
        files: Sequence[File],
        lineage: Lineage,
        spec: AdapterSpec,
        description: str,
    ) -> Version:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            same = session.scalar(
                select(VersionRow).where(
                    VersionRow.adapter_id == adapter.id, VersionRow.digest == digest
                )
            )
            if same is not None:
                return rows.to_version(same)
            now = now_utc()
            adapter.latest_version += 1
            adapter.update_time = now
            row = VersionRow(
                adapter=adapter,
                number=adapter.latest_version,
                digest=digest,
                description=description,
                base_fingerprint=lineage.base_fingerprint,
                lineage=rows.lineage_to_json(lineage),
                peft_type=spec.peft_type,
                max_rank=spec.max_rank,
                module_count=spec.module_count,
                parameter_count=spec.parameter_count,
                size_bytes=spec.size_bytes,
                rank_stabilized=spec.rank_stabilized,
                create_time=now,
                files=[
                    VersionFileRow(
                        path=file.path,
                        digest=file.digest,
                        size_bytes=file.size_bytes,
                        media_type=file.media_type,
                    )
                    for file in sorted(files, key=lambda file: file.path)
                ],
            )
            session.add(row)
            session.flush()
            return rows.to_version(row)

    def get_version(self, key: AdapterKey, number: int) -> Version:
        with self._read() as session:
            return rows.to_version(version_row(session, adapter_row(session, key), number))

    def get_version_by_digest(self, key: AdapterKey, digest: str) -> Version:
        with self._read() as session:
            adapter = adapter_row(session, key)
            row = session.scalar(
                select(VersionRow).where(
                    VersionRow.adapter_id == adapter.id, VersionRow.digest == digest
                )
            )
            if row is None:
                raise NotFound(
                    f"adapter {key} has no version with the digest {digest}: "
                    "list its versions, or publish it",
                    reason="VERSION_NOT_FOUND",
                    adapter=key,
                    digest=digest,
                )
            return rows.to_version(row)

    def list_versions(self, key: AdapterKey, *, after: int | None, limit: int) -> list[Version]:
        with self._read() as session:
            adapter = adapter_row(session, key)
            query = select(VersionRow).where(VersionRow.adapter_id == adapter.id)
            if after is not None:
                query = query.where(VersionRow.number < after)
            query = query.order_by(VersionRow.number.desc()).limit(limit)
            return [rows.to_version(row) for row in session.scalars(query)]

    # Aliases.

    def set_alias(
        self, key: AdapterKey, alias_id: str, *, targets: Sequence[AliasTarget], etag: str
    ) -> Alias:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = find_alias(session, adapter, alias_id)
            now = now_utc()
            if row is None:
                if etag not in ("", NEW_ONLY):
                    raise stale_etag(f"alias {key}@{alias_id}", "it is not there")
                row = AliasRow(adapter=adapter, name=alias_id)
                session.add(row)
            elif etag == NEW_ONLY:
                raise Aborted(
                    f"alias {key}@{alias_id} exists already, and etag '*' asks that it be new: "
                    "read it, then send its etag",
                    reason="ALIAS_EXISTS",
                    alias=f"{key}@{alias_id}",
                )
            else:
                check_etag(row.etag, etag, f"alias {key}@{alias_id}")
                session.execute(delete(AliasTargetRow).where(AliasTargetRow.alias_id == row.id))
                session.expire(row, ["targets"])
            row.etag = new_etag()
            row.update_time = adapter.update_time = now
            versions = [version_row(session, adapter, target.version) for target in targets]
            session.flush()
            session.add_all(
                AliasTargetRow(
                    alias_id=row.id, position=position, version=version, weight=target.weight
                )
                for position, (target, version) in enumerate(zip(targets, versions, strict=True))
            )
            session.flush()
            session.expire(row, ["targets"])
            return rows.to_alias(row)

    def get_alias(self, key: AdapterKey, alias_id: str) -> Alias:
        with self._read() as session:
            return rows.to_alias(alias_row(session, adapter_row(session, key), alias_id))

    def list_aliases(self, key: AdapterKey, *, after: str | None, limit: int) -> list[Alias]:
        with self._read() as session:
            adapter = adapter_row(session, key)
            query = select(AliasRow).where(AliasRow.adapter_id == adapter.id)
            if after is not None:
                query = query.where(AliasRow.name > after)
            query = query.order_by(AliasRow.name).limit(limit)
            return [rows.to_alias(row) for row in session.scalars(query)]

    def delete_alias(self, key: AdapterKey, alias_id: str, *, etag: str) -> None:
        with self._write() as session:
            adapter = lock_adapter(session, key)
            row = alias_row(session, adapter, alias_id)
            check_etag(row.etag, etag, f"alias {key}@{alias_id}")
            adapter.update_time = now_utc()
            session.execute(delete(AliasRow).where(AliasRow.id == row.id))

    # Bases.

    def put_base(self, base: Base) -> Base:
        values = {
            "display_name": base.display_name,
            "architecture": base.architecture,
            "quantization": base.quantization,
            "modules": [[m.path, m.in_features, m.out_features] for m in base.modules],
            "max_rank": base.max_rank,
            "context_length": base.context_length,
        }
        try:
            return self._put_base(base.fingerprint, values)
        except IntegrityError:
            # Another process made the same base known in between: now it is an update.
            return self._put_base(base.fingerprint, values)

    def _put_base(self, fingerprint: str, values: Mapping[str, object]) -> Base:
        with self._write() as session:
            row = session.scalar(select(BaseRow).where(BaseRow.fingerprint == fingerprint))
            if row is None:
                row = BaseRow(fingerprint=fingerprint, create_time=now_utc())
                session.add(row)
            for column, value in values.items():
                setattr(row, column, value)
            session.flush()
            return rows.to_base(row)

    def get_base(self, fingerprint: str) -> Base:
        with self._read() as session:
            return rows.to_base(base_row(session, fingerprint))

    def list_bases(self, *, after: str | None, limit: int) -> list[Base]:
        with self._read() as session:
            query = select(BaseRow).order_by(BaseRow.id.desc()).limit(limit)
            if after is not None:
                query = query.where(BaseRow.id < base_row(session, after).id)
            return [rows.to_base(row) for row in session.scalars(query)]

    # Transactions.

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with storage_errors(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with (
            storage_errors(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection(execution_options=WRITE)
            yield session
