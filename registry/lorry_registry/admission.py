"""Whether the blobs of a manifest may become a version, and for which base."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from lorry_registry.base_matching import match_base
from lorry_registry.blobs import BlobStore
from lorry_registry.checks import CONFIG_FILE, LABELS_FILE, WEIGHTS_FILE, read_adapter_files
from lorry_registry.entities import AdapterSpec, Base, File, Version
from lorry_registry.errors import FailedPrecondition, InvalidArgument, NotFound
from lorry_registry.limits import MAX_BASE_MODULES
from lorry_registry.paging import MAX_PAGE_SIZE
from lorry_registry.store import Store
from lorry_registry.tenant_blobs import TenantBlobs

_LOG = logging.getLogger(__name__)
_SHOWN_DIGESTS = 8


def check_blobs(blobs: BlobStore | TenantBlobs, files: Sequence[File]) -> None:
    """Every file's blob is there, of the size that the manifest says.

    Raises:
        FailedPrecondition: `BLOBS_MISSING`.
        InvalidArgument: `BLOB_SIZE_MISMATCH`.
    """
    there = {file.digest: blobs.progress(file.digest) for file in files}
    missing = [digest for digest, progress in there.items() if not progress.complete]
    if missing:
        shown = missing[:_SHOWN_DIGESTS]
        raise FailedPrecondition(
            f"{len(missing)} blobs of the manifest are missing ({', '.join(shown)}): "
            "write them, then create the version",
            reason="BLOBS_MISSING",
            digests=",".join(shown),
        )
    for file in files:
        size = there[file.digest].committed_size
        if size != file.size_bytes:
            raise InvalidArgument(
                f"the manifest says {file.path} has {file.size_bytes} bytes, and its blob has {size}: "
                "correct size_bytes",
                reason="BLOB_SIZE_MISMATCH",
                path=file.path,
                size_bytes=size,
            )


def admit(
    store: Store, blobs: BlobStore, files: Sequence[File], fingerprint: str
) -> tuple[AdapterSpec, Base]:
    """What the adapter is, and the base that it is for: the one with `fingerprint`, or that which it fits.

    Raises:
        InvalidArgument: what `checks` refuses.
        FailedPrecondition: `BASE_UNKNOWN`, `BASE_AMBIGUOUS`.
    """
    bases = _candidates(store, fingerprint)
    max_modules = max(
        (len(base.modules) + len(base.parameters) for base in bases), default=MAX_BASE_MODULES
    )
    by_path = {file.path: file for file in files}
    with ExitStack() as stack:
        config, weights, *labels = (
            stack.enter_context(blobs.local_file(by_path[name].digest))
            for name in (CONFIG_FILE, WEIGHTS_FILE, LABELS_FILE)
            if name in by_path
        )
        adapter = read_adapter_files(config, weights, *labels, max_modules=max_modules)
        for warning in adapter.config.warnings:
            _LOG.warning("%s", warning)
        base = match_base(adapter, bases, fingerprint)
        # Last, since it alone reads the whole file.
        adapter.check_finite()
        return adapter.spec, base


def check_same_base(existing: Version, fingerprint: str) -> None:
    """Raises FailedPrecondition `BASE_DIFFERS` where the version is asked for again, for another base."""
    known = existing.lineage.base_fingerprint
    if fingerprint not in ("", known):
        raise FailedPrecondition(
            f"these files are {existing.key}:{existing.number} already, for base {known} and not {fingerprint}; a "
            "version never changes: publish them under another name, or delete the adapter first",
            reason="BASE_DIFFERS",
            version=existing.number,
            base=known,
            base_fingerprint=fingerprint,
        )


def _candidates(store: Store, fingerprint: str) -> list[Base]:
    """The base of that fingerprint alone where it is known; else all, newest first."""
    if fingerprint:
        try:
            return [store.get_base(fingerprint)]
        except NotFound:
            pass
    return store.list_bases(after=None, limit=MAX_PAGE_SIZE)
