"""What a caller sees of blobs: those that a version which it may read names, and those that it brought itself.

Blobs are shared by all tenants, and knowing a digest must give nobody another's bytes, nor tell that they are there. So
whoever may not read everywhere uploads into a place of their own on this machine,

    <home>/tenants/<hash of the principal>/

and only what is complete there, and has the digest that it was announced with, is laid into the shared store: whether
it was there already can be told neither from an answer nor from an offset. What was brought is remembered until a
version names it. A caller that may read everywhere (the only one there is, where nobody is asked who they are) sees
every blob, and writes into the shared store at once.
"""

import hashlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from lorry_registry.access.rights import Role, current_rights
from lorry_registry.blobs import BlobStore, WriteProgress, blob_not_found
from lorry_registry.entities import AdapterKey
from lorry_registry.errors import DataLoss, NotFound, OutOfRange, ResourceExhausted
from lorry_registry.folder_blobs import FolderBlobStore
from lorry_registry.links import Link, PartLink, no_links
from lorry_registry.principal import current_principal

_COPIED_BYTES = 1 << 20
_MAX_OPEN = 1000


class UploadStore(Protocol):
    """What is asked of the place that keeps the catalogue's rows."""

    def sees_blob(self, digest: str, *, among: Collection[str], principal: str) -> bool:
        """Whether a version in one of the namespaces names the blob, or the principal brought it."""
        ...

    def add_upload(self, principal: str, digest: str, *, size_bytes: int) -> None:
        """Remembers that the principal brought the blob."""
        ...

    def uploaded_bytes(self, principal: str) -> int:
        """Of what it brought, and no version names."""
        ...

    def forget_uploads(self, principal: str, digests: Sequence[str]) -> None:
        """A version names these now."""
        ...

    def max_upload_bytes(self, among: Collection[str]) -> int:
        """The largest `max_bytes` among the namespaces; 0 where one of them has no bound."""
        ...


class TenantBlobs:
    """A blob store's verbs, as the current caller may use them. Safe to call from several threads."""

    def __init__(self, store: UploadStore, blobs: BlobStore, home: Path) -> None:
        self._store = store
        self._blobs = blobs
        self._folder = home / "tenants"
        self._places: dict[str, FolderBlobStore] = {}
        with suppress(FileNotFoundError):
            for place in self._folder.iterdir():
                FolderBlobStore(place)  # opening it drops what was left there long ago

    @property
    def part_bytes(self) -> int:
        """As `BlobStore.part_bytes`, for what the current caller writes."""
        return self._blobs.part_bytes if _sees_all() else 0

    def progress(self, digest: str) -> WriteProgress:
        """As `BlobStore.progress`."""
        if _sees_all():
            return self._blobs.progress(digest)
        if self._sees(digest) and (whole := self._blobs.progress(digest)).complete:
            return whole
        staged = self._place().progress(digest)
        return self._adopt(digest) if staged.complete else staged

    def append(self, digest: str, *, size_bytes: int, offset: int, data: bytes) -> WriteProgress:
        """As `BlobStore.append`. Raises ResourceExhausted `QUOTA_EXCEEDED` besides."""
        if _sees_all():
            return self._blobs.append(digest, size_bytes=size_bytes, offset=offset, data=data)
        if offset == 0 and (known := self.progress(digest)).complete:
            return known
        self._check_room(digest, size_bytes)
        place = self._place()
        staged = place.append(digest, size_bytes=size_bytes, offset=offset, data=data)
        return self._adopt(digest) if staged.complete else staged

    def flush(self, digest: str) -> WriteProgress:
        """As `BlobStore.flush`."""
        if _sees_all():
            return self._blobs.flush(digest)
        self._place().flush(digest)
        return self.progress(digest)

    def finish(self, digest: str, *, size_bytes: int) -> WriteProgress:
        """As `BlobStore.finish`."""
        if _sees_all():
            return self._blobs.finish(digest, size_bytes=size_bytes)
        if (known := self.progress(digest)).complete:
            return known
        self._place().finish(digest, size_bytes=size_bytes)
        return self._adopt(digest)

    def size(self, digest: str) -> int:
        """As `BlobStore.size`; what the caller does not see is not there."""
        self._check_seen(digest)
        return self._blobs.size(digest)

    def open(self, digest: str) -> BinaryIO:
        """As `BlobStore.open`; what the caller does not see is not there."""
        self._check_seen(digest)
        return self._blobs.open(digest)

    def sign_read(self, digest: str) -> Link:
        """As `BlobStore.sign_read`; what the caller does not see is not there."""
        self._check_seen(digest)
        return self._blobs.sign_read(digest)

    def sign_part(self, digest: str, *, size_bytes: int, offset: int) -> PartLink:
        """As `BlobStore.sign_part`. Only who sees all may: others' bytes come to a place of their own first."""
        if not _sees_all():
            raise no_links("uploads of who may not read everywhere do not go to the store at once")
        return self._blobs.sign_part(digest, size_bytes=size_bytes, offset=offset)

    def named(self, key: AdapterKey, digests: Sequence[str]) -> None:
        """A version of that adapter names them: from now on they are seen by whoever may read it."""
        if not _sees_all():
            self._store.forget_uploads(current_principal.get(), digests)

    def _adopt(self, digest: str) -> WriteProgress:
        """Lays what is complete in the caller's place into the shared store."""
        try:
            with self._place().local_file(digest) as path:
                return self._lay(digest, path)
        except (NotFound, FileNotFoundError):
            # Gone from the place: the caller's other upload of it was quicker, and has laid it there.
            if self._sees(digest) and (whole := self._blobs.progress(digest)).complete:
                return whole
            raise

    def _lay(self, digest: str, path: Path) -> WriteProgress:
        size = path.stat().st_size
        for attempt in (1, 2):
            try:
                self._copy(digest, path, size)
                break
            except DataLoss:  # others had begun it there, with bytes that are not the blob's
                if attempt == 2:
                    raise
        # Where it was there already it may be old, and a version will name it.
        self._blobs.touch(digest)
        self._store.add_upload(current_principal.get(), digest, size_bytes=size)
        path.unlink(missing_ok=True)
        return WriteProgress(size, complete=True)

    def _copy(self, digest: str, source: Path, size: int) -> None:
        """Others may write the same blob at the same time: each goes on from what is committed."""
        step = max(_COPIED_BYTES, self._blobs.part_bytes)
        with source.open("rb") as stream:
            progress = self._blobs.progress(digest)
            while not progress.complete:
                stream.seek(progress.committed_size)
                data = stream.read(step)
                with suppress(OutOfRange):
                    self._blobs.append(
                        digest, size_bytes=size, offset=progress.committed_size, data=data
                    )
                progress = self._blobs.progress(digest)
                if not progress.complete and progress.committed_size >= size:
                    progress = self._blobs.finish(digest, size_bytes=size)

    def _sees(self, digest: str) -> bool:
        among = current_rights.get().namespaces(Role.READ)
        return among is None or self._store.sees_blob(
            digest, among=among, principal=current_principal.get()
        )

    def _check_seen(self, digest: str) -> None:
        if not self._sees(digest):
            raise blob_not_found(digest)

    def _check_room(self, digest: str, size_bytes: int) -> None:
        """At every piece: writes that were begun side by side, each with room for itself, end where they have none."""
        among = current_rights.get().namespaces(Role.PUBLISH)
        limit = 0 if among is None else self._store.max_upload_bytes(among)
        if not limit:
            return
        own = digest.removeprefix("sha256:")
        unfinished = sum(
            leftover.size_bytes for leftover in self._place().leftovers() if leftover.name != own
        )
        held = self._store.uploaded_bytes(current_principal.get()) + unfinished
        if held + size_bytes > limit:
            raise ResourceExhausted(
                f"{size_bytes} bytes more, with what was uploaded before and is in no version, do not fit in the "
                f"namespace's {limit} bytes: publish what is there, or ask for a larger quota",
                reason="QUOTA_EXCEEDED",
                quota="max_bytes",
                limit=limit,
            )

    def _place(self) -> FolderBlobStore:
        name = hashlib.sha256(current_principal.get().encode()).hexdigest()[:32]
        place = self._places.get(name)
        if place is None:
            if len(self._places) >= _MAX_OPEN:
                self._places.clear()
            place = self._places[name] = FolderBlobStore(self._folder / name)
        return place


def _sees_all() -> bool:
    return current_rights.get().namespaces(Role.READ) is None
