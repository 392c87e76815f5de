"""What the catalogue asks of the place that keeps its rows: verbs over typed entities.

Each verb is one transaction: it happens wholly or not at all, with its event, and what it returned is not lost. Verbs
that change one adapter (its fields, versions, aliases) happen one after the other, whatever the number of callers and
processes, so that numbers have no gaps and no update is lost. Lists are keyset pages: `after` is the key of the last
entity of the page before, `limit` is at least 1.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from lorry_registry.access.store import AccessStore
from lorry_registry.bell import Bell
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
    Version,
)
from lorry_registry.events import Event, EventLog
from lorry_registry.removal import RemovalStore
from lorry_registry.searches import Search
from lorry_registry.tenant_blobs import UploadStore
from lorry_registry.upkeep.store import UpkeepStore

ANY_ETAG = ""
"""No guard: the change is made whatever the state."""
NEW_ONLY = "*"
"""The guard that asks that an alias be new."""


class Store(AccessStore, UploadStore, UpkeepStore, RemovalStore, Protocol):
    """The catalogue's rows. Raises NotFound, with `ADAPTER_NOT_FOUND` and the like, for what is not there.

    What is deleted (`removal`) is returned by `get_adapter` and `get_version` alone, and by lists that are to show
    it; all other verbs raise NotFound, `ADAPTER_DELETED` or `VERSION_DELETED`.
    """

    # Adapters.

    def create_adapter(
        self,
        key: AdapterKey,
        *,
        description: str,
        labels: Mapping[str, str],
        annotations: Mapping[str, str] | None = None,
    ) -> Adapter:
        """Raises AlreadyExists `ADAPTER_EXISTS`."""
        ...

    def get_adapter(self, key: AdapterKey) -> Adapter: ...

    def search_adapters(
        self,
        among: Collection[str] | None,
        search: Search,
        *,
        after: tuple[Any, AdapterKey] | None,
        limit: int,
    ) -> list[Adapter]:
        """Of the namespaces `among`, or of all. `after` is the last one's value of the order's field, and its key."""
        ...

    def update_adapter(
        self,
        key: AdapterKey,
        *,
        description: str | None,
        labels: Mapping[str, str] | None,
        annotations: Mapping[str, str] | None = None,
        etag: str,
    ) -> Adapter:
        """Changes what is not None. Raises Aborted `ETAG_MISMATCH` where `etag` is set and stale."""
        ...

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
        confirm: Callable[[], None] = lambda: None,
    ) -> Version:
        """Adds the next version; returns the one that has `digest` where there is one.

        `confirm` is called before the row is written, and raises where the version must not be: from then on until
        the version is there, no blob is discarded.
        """
        ...

    def update_version(
        self,
        key: AdapterKey,
        number: int,
        *,
        description: str | None,
        labels: Mapping[str, str] | None,
        annotations: Mapping[str, str] | None,
        etag: str,
    ) -> Version:
        """Changes what is not None. Raises Aborted `ETAG_MISMATCH` where `etag` is set and stale."""
        ...

    def add_evaluation(
        self,
        key: AdapterKey,
        number: int,
        *,
        title: str,
        metrics: Mapping[str, float],
        dataset: Dataset,
        description: str,
    ) -> Evaluation:
        """Adds the next evaluation of a version."""
        ...

    def list_evaluations(
        self, key: AdapterKey, number: int, *, after: int | None, limit: int
    ) -> list[Evaluation]:
        """Newest first, without those that are deleted."""
        ...

    def set_deprecation(
        self, key: AdapterKey, number: int, deprecation: Deprecation | None, *, why: str = ""
    ) -> Version:
        """Deprecates a version; for None, takes that back."""
        ...

    def set_block(
        self, key: AdapterKey, number: int, reason: str | None, *, why: str = ""
    ) -> Version:
        """Blocks a version; for None, takes that back."""
        ...

    def get_version(self, key: AdapterKey, number: int) -> Version: ...

    def get_version_by_digest(self, key: AdapterKey, digest: str) -> Version: ...

    def search_versions(
        self,
        among: AdapterKey | Collection[str] | None,
        search: Search,
        *,
        after: tuple[Any, AdapterKey, int] | None,
        limit: int,
    ) -> list[Version]:
        """Of an adapter, of those in namespaces, or of all. `after`: as above, with the version's number."""
        ...

    def list_versions(self, key: AdapterKey, *, after: int | None, limit: int) -> list[Version]:
        """Newest first, without those that are deleted."""
        ...

    # Aliases.

    def set_alias(
        self,
        key: AdapterKey,
        alias_id: str,
        *,
        targets: Sequence[AliasTarget],
        etag: str,
        why: str = "",
    ) -> Alias:
        """Points the alias at the targets' versions.

        Raises Aborted: `ETAG_MISMATCH` where `etag` is stale, `ALIAS_EXISTS` where it is `*` and the alias is not
        new; FailedPrecondition `VERSION_BLOCKED`.
        """
        ...

    def rollback_alias(
        self, key: AdapterKey, alias_id: str, *, move: int, etag: str, why: str = ""
    ) -> Alias:
        """Points the alias at what it pointed at after `move`; for 0, after the move before the one that now holds.

        Raises NotFound `ALIAS_NOT_FOUND` for an alias that never was, `ALIAS_MOVE_NOT_FOUND`; Aborted
        `ETAG_MISMATCH`; FailedPrecondition `NOTHING_TO_ROLL_BACK` where there was no alias then,
        `ROLLBACK_TARGET_GONE` where a version of then is no longer there.
        """
        ...

    def list_alias_moves(
        self, key: AdapterKey, alias_id: str, *, after: int | None, limit: int
    ) -> list[AliasMove]:
        """Newest first; those of a deleted alias too. Raises NotFound where the alias never was."""
        ...

    def get_alias(self, key: AdapterKey, alias_id: str) -> Alias: ...

    def list_aliases(self, key: AdapterKey, *, after: str | None, limit: int) -> list[Alias]:
        """In the order of their ids."""
        ...

    def delete_alias(self, key: AdapterKey, alias_id: str, *, etag: str, why: str = "") -> None:
        """Raises Aborted `ETAG_MISMATCH`."""
        ...

    # Bases.

    def put_base(self, base: Base) -> Base:
        """Makes the base known. Of one that is known, changes the display name, and raises `max_rank` at most.

        Its place in the order stays, and so does all the rest: versions were checked against it. Raises
        FailedPrecondition `BASE_CONFLICT` where the modules are others than those known.
        """
        ...

    def get_base(self, fingerprint: str) -> Base: ...

    def list_bases(self, *, after: str | None, limit: int) -> list[Base]:
        """Newest first; `after` is a fingerprint."""
        ...

    # Events.

    bell: Bell
    """Rings after each change, whoever made it; closed with the store."""

    def event_log(self) -> EventLog:
        """How far the events go now."""
        ...

    def list_events(self, *, after: int, limit: int) -> list[Event]:
        """In their order. Raises OutOfRange `RESUME_TOKEN_EXPIRED` where some after `after` are no longer kept."""
        ...

    def close(self) -> None:
        """Gives back connections. The store is of no use afterwards."""
        ...
