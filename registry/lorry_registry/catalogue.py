"""The catalogue: what may happen to adapters, versions, aliases and bases.

The rules stand here; rows are the store's business, bytes the blob store's, names and files are judged by
`references` and `checks`. Everything is synchronous and may block on disk: an event loop calls it in a thread.
Safe to call from several threads.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lorry_registry import references, resolution
from lorry_registry.access.access import Access
from lorry_registry.access.rights import Role, current_rights
from lorry_registry.admission import admit, check_blobs, check_same_base
from lorry_registry.blobs import BlobStore, WriteProgress
from lorry_registry.checks import check_manifest
from lorry_registry.digests import parse_digest, version_digest
from lorry_registry.entities import (
    Adapter,
    AdapterKey,
    Alias,
    AliasMove,
    AliasTarget,
    Base,
    File,
    Lineage,
    Meaning,
    Version,
)
from lorry_registry.errors import FailedPrecondition, InvalidArgument, NotFound
from lorry_registry.events import Event
from lorry_registry.filters import matches, parse_filter
from lorry_registry.insights import Insights
from lorry_registry.limits import (
    check_annotations,
    check_base,
    check_description,
    check_labels,
    check_lineage,
    check_targets,
    check_why,
)
from lorry_registry.paging import Page, clip_page_size, decode_token, make_page
from lorry_registry.removal import Removal
from lorry_registry.searches import EVENT_FIELDS, event_value
from lorry_registry.searching import Searching
from lorry_registry.store import ANY_ETAG, Store
from lorry_registry.tenant_blobs import TenantBlobs
from lorry_registry.upkeep.fsck import Checked, Finding, check
from lorry_registry.upkeep.garbage import DEFAULT_GRACE_SECONDS, Collected, collect
from lorry_registry.version_notes import VersionNotes
from lorry_registry.watching import DEFAULT_HEARTBEAT_SECONDS, Batch, watch

_LOG = logging.getLogger(__name__)


class Catalogue(Searching, VersionNotes, Insights, Removal):
    """Adapters, versions, aliases and bases over a store and a blob store.

    `blobs` holds every blob; `tenant_blobs` those that the current caller may see, for whatever callers ask.
    """

    _store: Store

    def __init__(self, store: Store, blobs: BlobStore, home: Path) -> None:
        self._store = store
        self.blobs = blobs
        self.tenant_blobs = TenantBlobs(store, blobs, home)
        self.access = Access(store)

    def close(self) -> None:
        self._store.close()
        self.blobs.close()

    # Adapters.

    def create_adapter(
        self,
        key: AdapterKey,
        *,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Adapter:
        """Raises AlreadyExists."""
        return self._store.create_adapter(
            key,
            description=check_description(description),
            labels=check_labels(labels or {}),
            annotations=check_annotations(annotations or {}),
        )

    def get_adapter(self, key: AdapterKey) -> Adapter:
        return self._store.get_adapter(key)

    def update_adapter(
        self,
        key: AdapterKey,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        etag: str = ANY_ETAG,
    ) -> Adapter:
        """Changes what is not None. Raises Aborted where `etag` is stale."""
        return self._store.update_adapter(
            key,
            description=None if description is None else check_description(description),
            labels=None if labels is None else check_labels(labels),
            annotations=None if annotations is None else check_annotations(annotations),
            etag=etag,
        )

    # Versions.

    def publish(
        self,
        key: AdapterKey,
        files: Sequence[File],
        *,
        lineage: Lineage | None = None,
        description: str = "",
        validate_only: bool = False,
    ) -> Version:
        """Makes a version of blobs that are all present, after checking what they hold.

        The row is written last, so that a version that can be seen is whole. The same files again give the version
        that has them. A dry run answers with number 0.

        Raises:
            InvalidArgument: what `checks` refuses.
            FailedPrecondition: `BLOBS_MISSING`, `BASE_UNKNOWN`, `BASE_AMBIGUOUS`, `BASE_DIFFERS`.
            NotFound: there is no such adapter.
        """
        adapter = self._store.get_adapter(key)
        check_manifest(files)
        check_description(description)
        lineage = check_lineage(lineage or Lineage())
        digest = version_digest(files)
        existing = self._find_version(key, digest) if adapter.latest_version else None
        if existing is not None:
            check_same_base(existing, lineage.base_fingerprint)
            return existing
        check_blobs(self.tenant_blobs, files)
        try:
            spec, base = admit(self._store, self.blobs, files, lineage.base_fingerprint)
        except (NotFound, FileNotFoundError):
            check_blobs(self.tenant_blobs, files)  # one was collected while it was read: says so
            raise
        lineage = replace(
            lineage,
            base_fingerprint=base.fingerprint,
            base_name=lineage.base_name or base.display_name,
        )
        if validate_only:
            now = datetime.now(UTC)
            return Version(key, 0, digest, tuple(files), lineage, spec, description, now)
        version = self._store.create_version(
            key,
            digest=digest,
            files=files,
            lineage=lineage,
            spec=spec,
            description=description,
            confirm=lambda: check_blobs(self.blobs, files),
        )
        self.tenant_blobs.named(key, [file.digest for file in files])
        _LOG.info("published %s:%d %s", key, version.number, digest)
        return version

    def copy(self, reference: str, key: AdapterKey) -> Version:
        """Makes what a reference means now a version of another adapter: the same files, lineage and description.

        Raises NotFound for either, FailedPrecondition `VERSION_BLOCKED` for what must not be served under another name
        either, ResourceExhausted where the namespace has no room.
        """
        source = self.resolve(reference)
        if source.block_reason is not None:
            raise FailedPrecondition(
                f"{source.key}:{source.number} is blocked ({source.block_reason}): no copy of it is made, choose "
                "another version, or unblock it first",
                reason="VERSION_BLOCKED",
                version=f"{source.key}:{source.number}",
                why=source.block_reason,
            )
        version = self._store.create_version(
            key,
            digest=source.digest,
            files=source.files,
            lineage=source.lineage,
            spec=source.spec,
            description=source.description,
            confirm=lambda: check_blobs(self.blobs, source.files),
        )
        _LOG.info("copied %s:%d to %s:%d", source.key, source.number, key, version.number)
        return version

    def get_version(self, key: AdapterKey, number: int) -> Version:
        return self._store.get_version(key, number)

    def resolve(self, reference: str, sticky_key: str | None = None) -> Version:
        """The version that a reference means now: see `resolution`."""
        return resolution.resolve(self._store, reference, sticky_key)

    def expand(self, reference: str) -> Meaning:
        """Every version that a reference means now, with its share: see `resolution`."""
        return resolution.expand(self._store, reference)

    # Aliases.

    def set_alias(
        self,
        key: AdapterKey,
        alias_id: str,
        targets: Sequence[AliasTarget],
        *,
        etag: str = ANY_ETAG,
        why: str = "",
    ) -> Alias:
        """Points the alias at one version, or at several that share the requests by weight.

        Raises NotFound for a version, Aborted for the etag, InvalidArgument `ALIAS_TARGETS_INVALID`.
        """
        return self._store.set_alias(
            key,
            references.check_alias(alias_id),
            targets=check_targets(targets),
            etag=etag,
            why=check_why(why),
        )

    def rollback_alias(
        self,
        key: AdapterKey,
        alias_id: str,
        *,
        move: int = 0,
        etag: str = ANY_ETAG,
        why: str = "",
    ) -> Alias:
        """Points the alias at what it pointed at after `move`; for 0, one step back from what holds now."""
        if move < 0:
            raise InvalidArgument(
                f"move {move} is negative: name a move, or leave it 0 for the one before",
                reason="ALIAS_MOVE_INVALID",
                move=move,
            )
        return self._store.rollback_alias(
            key, references.check_alias(alias_id), move=move, etag=etag, why=check_why(why)
        )

    def list_alias_moves(
        self, key: AdapterKey, alias_id: str, *, page_size: int = 0, page_token: str = ""
    ) -> Page[AliasMove]:
        """A page, newest first."""
        size = clip_page_size(page_size)
        arguments = ("alias-moves", key.resource_name, alias_id)
        after = decode_token(page_token, arguments, types=(int,))
        rows = self._store.list_alias_moves(
            key, alias_id, after=None if after is None else int(after[0]), limit=size + 1
        )
        return make_page(rows, size, lambda move: [move.number], arguments)

    def get_alias(self, key: AdapterKey, alias_id: str) -> Alias:
        return self._store.get_alias(key, alias_id)

    def list_aliases(
        self, key: AdapterKey, *, page_size: int = 0, page_token: str = ""
    ) -> Page[Alias]:
        """A page in the order of ids."""
        size = clip_page_size(page_size)
        arguments = ("aliases", key.resource_name)
        after = decode_token(page_token, arguments, types=(str,))
        rows = self._store.list_aliases(
            key, after=None if after is None else str(after[0]), limit=size + 1
        )
        return make_page(rows, size, lambda alias: [alias.alias_id], arguments)

    def delete_alias(
        self, key: AdapterKey, alias_id: str, *, etag: str = ANY_ETAG, why: str = ""
    ) -> None:
        self._store.delete_alias(key, alias_id, etag=etag, why=check_why(why))

    # Bases.

    def put_base(self, base: Base) -> Base:
        """Makes a base known; announced again, it may get another name and a higher rank cap, and no other modules.

        Servers of one base may have caps of their own: what the largest admits gets in, and each server holds its
        own against an adapter when it loads it.

        Raises:
            FailedPrecondition: `BASE_CONFLICT`.
        """
        return self._store.put_base(check_base(base))

    def get_base(self, fingerprint: str) -> Base:
        return self._store.get_base(fingerprint)

    def list_bases(self, *, page_size: int = 0, page_token: str = "") -> Page[Base]:
        """A page, newest first."""
        size = clip_page_size(page_size)
        after = decode_token(page_token, ("bases",), types=(str,))
        rows = self._store.list_bases(
            after=None if after is None else str(after[0]), limit=size + 1
        )
        return make_page(rows, size, lambda base: [base.fingerprint], ("bases",))

    # Blobs.

    def missing_blobs(self, digests: Sequence[str]) -> list[tuple[str, int]]:
        """Those that do not exist, in order, with what an unfinished write has committed of each.

        Those that do are asked to stay: a version will name them.
        """
        blobs = self.tenant_blobs
        progress = [(d, blobs.progress(parse_digest(d, what="digest"))) for d in digests]
        for digest, found in progress:
            if found.complete:
                self.blobs.touch(digest)
        return [(digest, p.committed_size) for digest, p in progress if not p.complete]

    def blob_progress(self, digest: str) -> WriteProgress:
        return self.tenant_blobs.progress(parse_digest(digest, what="digest"))

    def open_blob(self, digest: str) -> BinaryIO:
        """The blob's bytes, seekable; the caller closes it. Raises NotFound."""
        return self.tenant_blobs.open(parse_digest(digest, what="digest"))

    # Upkeep, by whoever has the stores themselves.

    def collect(
        self, *, grace_seconds: float = DEFAULT_GRACE_SECONDS, dry_run: bool = False
    ) -> Collected:
        """Purges what is due and collects what no version names: see `upkeep.garbage`."""
        return collect(self._store, self.blobs, grace_seconds=grace_seconds, dry_run=dry_run)

    def check(self, *, repair: bool = False, checked: Checked | None = None) -> Iterator[Finding]:
        """What is wrong with blobs and versions: see `upkeep.fsck`."""
        return check(self._store, self.blobs, repair=repair, checked=checked)

    # Events.

    def position(self) -> int:
        """How far the events go: everything that was acknowledged before has a position up to there."""
        return self._store.event_log().position

    def watch(
        self,
        *,
        resume_token: str = "",
        namespace: str | None = None,
        filter_text: str = "",
        heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS,
    ) -> AsyncIterator[Batch]:
        """The events of a namespace, or of all that the caller may read: see `watching.watch`.

        For an event loop, which it never blocks.
        """
        readable = current_rights.get().namespaces(Role.READ) if namespace is None else {namespace}
        wanted = parse_filter(filter_text, EVENT_FIELDS)

        def where(event: Event) -> bool:
            seen = readable is None or event.key.namespace in readable
            return seen and matches(wanted, partial(event_value, event))

        return watch(
            self._store,
            resume_token=resume_token,
            where=where,
            heartbeat_seconds=heartbeat_seconds,
        )

    def end_watches(self) -> None:
        """Ends every watch, now and from now on: the process stops."""
        self._store.bell.close()

    # Within.

    def _find_version(self, key: AdapterKey, digest: str) -> Version | None:
        try:
            return self._store.get_version_by_digest(key, digest)
        except NotFound:
            return None
