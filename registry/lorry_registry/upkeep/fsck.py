"""Whether what the registry holds is whole: every blob is its digest's, and every version has its blobs.

The blobs and the files that versions name are walked side by side, in the order of digests, so that memory does not
grow with their number. What looks missing is looked at again before it is said: pushes and collections go on.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from lorry_registry.blobs import BlobStore, StoredBlob
from lorry_registry.digests import version_digest
from lorry_registry.errors import NotFound
from lorry_registry.upkeep.store import UpkeepStore, UsedFile

_PAGE = 500
_READ_BYTES = 4 << 20


class Problem(StrEnum):
    """What can be wrong."""

    BLOB_CORRUPT = "blob corrupt"  # its bytes have another digest
    BLOB_MISSING = "blob missing"  # a version names it
    BLOB_SIZE = "blob size"  # a version says another
    MANIFEST = "manifest"  # a version's files are not those of its digest


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. `versions`: which it is wrong for, as `namespace/name:number`."""

    problem: Problem
    what: str
    versions: tuple[str, ...]
    set_aside: str = ""  # where a corrupt blob went

    @property
    def way_out(self) -> str:
        if self.problem is Problem.MANIFEST:
            return "restore the database from a backup, or delete the version"
        if self.problem is Problem.BLOB_CORRUPT and not self.set_aside:
            return "`--repair` sets it aside"
        if not self.versions:
            return ""
        return "push the same files again, or delete the version"

    def __str__(self) -> str:
        used = ", ".join(self.versions) or "no version"
        aside = f"; set aside as {self.set_aside}" if self.set_aside else ""
        out = f"; {self.way_out}" if self.way_out else ""
        return f"{self.problem}: {self.what} of {used}{aside}{out}"


@dataclass(slots=True)
class Checked:
    """How much was looked at so far."""

    blobs: int = 0
    blob_bytes: int = 0
    versions: int = 0


def check(
    store: UpkeepStore, blobs: BlobStore, *, repair: bool = False, checked: Checked | None = None
) -> Iterator[Finding]:
    """What is wrong, as it is found; `checked` counts along.

    Args:
        repair: set aside the blobs whose bytes are not their digest's, so that a push brings them back.
    """
    checked = checked or Checked()
    for digest, blob, files in _side_by_side(blobs.blobs(), _used_files(store)):
        versions = tuple(f"{file.key}:{file.number}" for file in files)
        if blob is None:
            if not blobs.progress(digest).complete and digest not in store.unused_blobs([digest]):
                yield Finding(Problem.BLOB_MISSING, digest, versions)
            continue
        checked.blobs += 1
        checked.blob_bytes += blob.size_bytes
        if not _is_whole(blobs, digest):
            aside = blobs.set_aside(digest) if repair else ""
            yield Finding(Problem.BLOB_CORRUPT, digest, versions, aside)
        elif any(file.size_bytes != blob.size_bytes for file in files):
            yield Finding(Problem.BLOB_SIZE, f"{digest}, {blob.size_bytes} bytes,", versions)
    after = 0
    while page := store.versions_after(after, limit=_PAGE):
        after = page[-1][0]
        for _, version in page:
            checked.versions += 1
            if version_digest(version.files) != version.digest:
                named = (f"{version.key}:{version.number}",)
                yield Finding(Problem.MANIFEST, version.digest, named)


def _is_whole(blobs: BlobStore, digest: str) -> bool:
    hasher = hashlib.sha256()
    try:
        with blobs.open(digest) as stream:
            while piece := stream.read(_READ_BYTES):
                hasher.update(piece)
    except (NotFound, FileNotFoundError):
        return True  # collected meanwhile
    return f"sha256:{hasher.hexdigest()}" == digest


def _used_files(store: UpkeepStore) -> Iterator[UsedFile]:
    after = None
    while page := store.used_files(after, limit=_PAGE):
        yield from page
        after = page[-1].position


def _side_by_side(
    blobs: Iterator[StoredBlob], files: Iterator[UsedFile]
) -> Iterator[tuple[str, StoredBlob | None, list[UsedFile]]]:
    """For each digest that is on either side, the blob and the files that name it."""
    blob = next(blobs, None)
    for digest, group in groupby(files, key=lambda file: file.digest):
        while blob is not None and blob.digest < digest:
            yield blob.digest, blob, []
            blob = next(blobs, None)
        if blob is not None and blob.digest == digest:
            yield digest, blob, list(group)
            blob = next(blobs, None)
        else:
            yield digest, None, list(group)
    while blob is not None:
        yield blob.digest, blob, []
        blob = next(blobs, None)
