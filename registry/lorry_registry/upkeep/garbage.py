"""Collecting garbage: what was deleted long ago, blobs that no version names, what unfinished writes have left.

What is younger than the grace stays, since a push may be on its way to name it; asking whether a blob is missing
makes it young again. The grace is a courtesy, not what keeps a version whole: a blob is deleted in a transaction
that no version which names it can be created in (`Store.discard_blobs`), and a version is created in one that has
seen every blob of it (`Store.create_version`). Whichever comes first, the other sees it.
"""

import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from lorry_registry.blobs import BlobStore, StoredBlob
from lorry_registry.upkeep.store import UpkeepStore

DEFAULT_GRACE_SECONDS = 24 * 3600.0
_BATCH = 200
"""Blobs that are deleted in one transaction; publishing waits for it."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """What was collected, or in a dry run would have been."""

    purged: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    writes: int = 0
    write_bytes: int = 0


def collect(
    store: UpkeepStore,
    blobs: BlobStore,
    *,
    grace_seconds: float = DEFAULT_GRACE_SECONDS,
    dry_run: bool = False,
) -> Collected:
    """Collects what is older than the grace. Safe beside anything else, another collection included."""
    oldest = time.time() - grace_seconds
    # What was deleted long enough ago goes first: in a dry run its blobs still count as used.
    done = Collected(purged=store.purge_expired(datetime.now(UTC), dry_run=dry_run))
    for batch in _batched(blob for blob in blobs.blobs() if blob.modified < oldest):
        by_digest = {blob.digest: blob for blob in batch}
        unused = store.unused_blobs(list(by_digest))
        if unused and not dry_run:
            unused = store.discard_blobs(unused, blobs.delete)
        for digest in unused:
            _LOG.debug("collected blob %s", digest)
        done = replace(
            done,
            blobs=done.blobs + len(unused),
            blob_bytes=done.blob_bytes + sum(by_digest[digest].size_bytes for digest in unused),
        )
    for leftover in blobs.leftovers():
        if leftover.modified < oldest and (dry_run or blobs.drop(leftover, older_than=oldest)):
            done = replace(
                done,
                writes=done.writes + 1,
                write_bytes=done.write_bytes + leftover.size_bytes,
            )
    return done


def _batched(found: Iterable[StoredBlob]) -> Iterator[list[StoredBlob]]:
    rest = iter(found)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield batch
