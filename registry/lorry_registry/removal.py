"""Taking away: what is deleted can be brought back for a while, and then goes for good.

Nothing of it is found under its name meanwhile, but by who asks for the adapter or the version itself; its blobs stay.
A version that an alias points at is in use, and deleted by force only; the alias then means nothing until the version
is brought back. Purged, a version's number is not given again.
"""

from datetime import timedelta
from typing import Protocol

from lorry_registry.entities import Adapter, AdapterKey, Version

KEPT_AFTER_DELETION = timedelta(days=30)


class RemovalStore(Protocol):
    """What is asked of the place that keeps the rows. Raises NotFound for what is not there."""

    def delete_adapter(
        self, key: AdapterKey, *, force: bool, etag: str, kept: timedelta
    ) -> Adapter:
        """Deletes the adapter with its versions and aliases; one without versions at once for good.

        Raises FailedPrecondition `ADAPTER_HAS_VERSIONS` without `force`, Aborted `ETAG_MISMATCH`.
        """
        ...

    def undelete_adapter(self, key: AdapterKey) -> Adapter:
        """As it was. Raises AlreadyExists `ADAPTER_NOT_DELETED`."""
        ...

    def purge_adapter(self, key: AdapterKey) -> None:
        """Removes a deleted adapter for good. Raises FailedPrecondition `ADAPTER_NOT_DELETED`."""
        ...

    def delete_version(
        self, key: AdapterKey, number: int, *, force: bool, etag: str, kept: timedelta
    ) -> Version:
        """Raises FailedPrecondition `VERSION_IN_USE` without `force`, Aborted `ETAG_MISMATCH`."""
        ...

    def undelete_version(self, key: AdapterKey, number: int) -> Version:
        """Raises AlreadyExists `VERSION_NOT_DELETED`."""
        ...

    def purge_version(self, key: AdapterKey, number: int) -> None:
        """Raises FailedPrecondition `VERSION_NOT_DELETED`, `VERSION_IN_USE`."""
        ...


class Removal:
    """A part of the catalogue."""

    _store: RemovalStore

    def delete_adapter(self, key: AdapterKey, *, force: bool = False, etag: str = "") -> Adapter:
        """Raises FailedPrecondition where there are versions and `force` is not set."""
        return self._store.delete_adapter(key, force=force, etag=etag, kept=KEPT_AFTER_DELETION)

    def undelete_adapter(self, key: AdapterKey) -> Adapter:
        return self._store.undelete_adapter(key)

    def purge_adapter(self, key: AdapterKey) -> None:
        self._store.purge_adapter(key)

    def delete_version(
        self, key: AdapterKey, number: int, *, force: bool = False, etag: str = ""
    ) -> Version:
        """Raises FailedPrecondition where an alias points at it and `force` is not set."""
        return self._store.delete_version(
            key, number, force=force, etag=etag, kept=KEPT_AFTER_DELETION
        )

    def undelete_version(self, key: AdapterKey, number: int) -> Version:
        return self._store.undelete_version(key, number)

    def purge_version(self, key: AdapterKey, number: int) -> None:
        self._store.purge_version(key, number)
