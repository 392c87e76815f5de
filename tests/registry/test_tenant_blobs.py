"""Blobs are shared, and no tenant can tell: a digest gives nobody another's bytes, nor that they are there."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lorry_registry.access.entities import Quotas
from lorry_registry.access.rights import Rights, current_rights, parse_grants
from lorry_registry.blobs import WriteProgress
from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import digest_bytes
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, File
from lorry_registry.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LorryError,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)
from lorry_registry.principal import current_principal

from .helpers import adapter_bytes, make_base

MINE, THEIRS = AdapterKey("mine", "a"), AdapterKey("theirs", "a")
DATA = bytes(range(256)) * 8192  # two pieces of a copy
DIGEST = digest_bytes(DATA)
NOTHING = WriteProgress(0, complete=False)
WHOLE = WriteProgress(len(DATA), complete=True)

Become = Callable[..., None]


@pytest.fixture
def become() -> Iterator[Become]:
    """Makes the test a caller with this name and these grants; without any, the one that may all."""
    rights, principal = current_rights.get(), current_principal.get()

    def change(name: str = "", *grants: str) -> None:
        current_principal.set(name or principal)
        current_rights.set(Rights(parse_grants(grants)) if grants else rights)

    yield change
    change()


@pytest.fixture
def catalogue(home: Path, database: str) -> Iterator[Catalogue]:
    """Empty, on either database."""
    opened = open_catalogue(home, database=database)
    yield opened
    opened.close()


@pytest.fixture
def tenants(catalogue: Catalogue) -> Catalogue:
    catalogue.put_base(make_base())
    for key in (MINE, THEIRS):
        catalogue.create_adapter(key)
    return catalogue


def write(catalogue: Catalogue, data: bytes, step: int = 1 << 20) -> WriteProgress:
    """As a client writes: from where it is told, to the end."""
    blobs, digest = catalogue.tenant_blobs, digest_bytes(data)
    progress = blobs.progress(digest)
    while not progress.complete:
        offset = progress.committed_size
        if offset >= len(data):
            return blobs.finish(digest, size_bytes=len(data))
        piece = data[offset : offset + step]
        progress = blobs.append(digest, size_bytes=len(data), offset=offset, data=piece)
    return progress


def publish(catalogue: Catalogue, key: AdapterKey, files: dict[str, bytes]) -> Any:
    for data in files.values():
        write(catalogue, data)
    manifest = [File(path, digest_bytes(data), len(data)) for path, data in files.items()]
    return catalogue.publish(key, manifest)


def told(act: Callable[[], object]) -> tuple[Any, ...]:
    try:
        return ("OK", act())
    except LorryError as error:
        return (type(error), error.reason, error.message)


@pytest.mark.parametrize("state", ["absent", "unfinished", "whole"])
def test_nothing_tells_what_others_have_brought(
    tenants: Catalogue, become: Become, state: str
) -> None:
    """Every answer along a whole upload is the same, whatever is in the shared store already."""
    blobs = tenants.tenant_blobs
    if state != "absent":
        blobs.append(DIGEST, size_bytes=len(DATA), offset=0, data=DATA[:1000])
        blobs.append(DIGEST, size_bytes=len(DATA), offset=1000, data=DATA[1000:])
    if state == "whole":
        blobs.finish(DIGEST, size_bytes=len(DATA))
    become("b", "publish:mine")
    half, wrong = DATA[:5000], bytes(len(DATA))
    manifest = [
        File("adapter_config.json", DIGEST, 1),
        File("adapter_model.safetensors", DIGEST, 1),
    ]
    assert tenants.missing_blobs([DIGEST]) == [(DIGEST, 0)]
    assert blobs.progress(DIGEST) == blobs.flush(DIGEST) == NOTHING
    for look in (blobs.size, blobs.open):
        assert told(lambda look=look: look(DIGEST))[:2] == (NotFound, "BLOB_NOT_FOUND")
    assert told(lambda: tenants.publish(MINE, manifest))[:2] == (
        FailedPrecondition,
        "BLOBS_MISSING",
    )
    assert told(lambda: blobs.finish(DIGEST, size_bytes=len(DATA)))[0] is InvalidArgument
    far = told(lambda: blobs.append(DIGEST, size_bytes=len(DATA), offset=7, data=half))
    assert far[:2] == (OutOfRange, "WRITE_OFFSET_MISMATCH")
    # Bytes that are not the blob's prove nothing.
    assert blobs.append(DIGEST, size_bytes=len(DATA), offset=0, data=wrong).committed_size == len(
        DATA
    )
    assert told(lambda: blobs.finish(DIGEST, size_bytes=len(DATA)))[0] is DataLoss
    assert blobs.progress(DIGEST) == NOTHING
    # Those that are make it the caller's own.
    assert blobs.append(DIGEST, size_bytes=len(DATA), offset=0, data=half).committed_size == 5000
    assert tenants.missing_blobs([DIGEST]) == [(DIGEST, 5000)]
    assert write(tenants, DATA) == WHOLE
    with blobs.open(DIGEST) as stream:
        assert stream.read() == DATA
    assert tenants.missing_blobs([DIGEST]) == []
    become("c", "publish:mine")
    assert tenants.missing_blobs([DIGEST]) == [(DIGEST, 0)]


def test_an_upload_that_others_spoilt_is_laid_anew(tenants: Catalogue, become: Become) -> None:
    """Whoever may write into the shared store could have begun the blob there with bytes that are not its own."""
    tenants.blobs.append(DIGEST, size_bytes=len(DATA), offset=0, data=b"x" * 100)
    become("b", "publish:mine")
    assert write(tenants, DATA) == WHOLE
    assert tenants.blobs.progress(DIGEST) == WHOLE


def test_a_version_shows_its_blobs_to_whoever_may_read_it(
    tenants: Catalogue, become: Become, home: Path
) -> None:
    files = adapter_bytes()
    become("writer", "publish:theirs")
    version = publish(tenants, THEIRS, files)
    digests = [file.digest for file in version.files]
    assert tenants._store.uploaded_bytes("writer") == 0  # what a version names needs no other mark
    assert [*(home / "tenants").rglob("*/blobs/sha256/*/*")] == []
    become("reader", "read:theirs")
    for digest in digests:
        tenants.tenant_blobs.open(digest).close()
    for stranger in (("s", "publish:mine"), ("i", "infer:theirs"), ("a", "admin:mine")):
        become(*stranger)
        assert [digest for digest, _ in tenants.missing_blobs(digests)] == digests
        for digest in digests:
            with pytest.raises(NotFound):
                tenants.tenant_blobs.open(digest)
        with pytest.raises(FailedPrecondition, match="missing"):
            tenants.publish(MINE, version.files)
    become("s", "publish:mine")
    assert publish(tenants, MINE, files).digest == version.digest  # whoever has the bytes may


def test_uploads_that_no_version_names_are_bounded(tenants: Catalogue, become: Become) -> None:
    tenants.access.create_namespace("mine", quotas=Quotas(max_bytes=1000))
    become("b", "publish:mine")
    write(tenants, b"a" * 600)
    with pytest.raises(ResourceExhausted) as caught:
        write(tenants, b"b" * 600)
    assert caught.value.reason == "QUOTA_EXCEEDED"
    write(tenants, b"c" * 400)
    become("c", "publish:mine", "publish:theirs")  # one of its namespaces has no bound
    write(tenants, b"d" * 6000)


def test_a_crash_before_the_blob_was_laid_into_the_store_loses_nothing(
    tenants: Catalogue, become: Become, home: Path
) -> None:
    become("b", "publish:mine")
    place = tenants.tenant_blobs._place()
    place.append(DIGEST, size_bytes=len(DATA), offset=0, data=DATA)
    place.finish(DIGEST, size_bytes=len(DATA))
    assert not tenants.blobs.progress(DIGEST).complete
    assert tenants.tenant_blobs.progress(DIGEST) == WHOLE
    assert tenants.blobs.progress(DIGEST) == WHOLE


def test_two_uploads_of_one_blob_by_one_caller_both_end_well(
    catalogue: Catalogue, become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower of the two found its bytes gone from the caller's place, and failed with an internal error."""
    become("b", "publish:mine")
    blobs = catalogue.tenant_blobs
    blobs.append(DIGEST, size_bytes=len(DATA), offset=0, data=DATA)
    copy, quicker = blobs._copy, []

    def overtaken(*arguments: Any) -> None:
        if not quicker:
            quicker.append(True)
            assert blobs.finish(DIGEST, size_bytes=len(DATA)) == WHOLE
        copy(*arguments)

    monkeypatch.setattr(blobs, "_copy", overtaken)
    assert blobs.finish(DIGEST, size_bytes=len(DATA)) == WHOLE
    assert catalogue.missing_blobs([DIGEST]) == []


def test_an_upload_that_two_write_down_at_once_is_written_down(catalogue: Catalogue) -> None:
    """On PostgreSQL the second failed, since each had looked before the other wrote."""
    together = threading.Barrier(4)

    def bring(digest: str) -> None:
        together.wait()
        catalogue._store.add_upload("b", digest, size_bytes=7)

    with ThreadPoolExecutor(4) as threads:
        for number in range(5):
            list(threads.map(bring, [f"sha256:{number}"] * 4))
    assert catalogue._store.uploaded_bytes("b") == 5 * 7


def test_what_was_there_before_it_was_brought_stays_for_its_grace(
    catalogue: Catalogue, become: Become, home: Path
) -> None:
    """An old blob that no version named was collected between its upload by a tenant and the version that names it."""
    write(catalogue, DATA)
    name = DIGEST.removeprefix("sha256:")
    os.utime(home / "blobs" / "sha256" / name[:2] / name, (1, 1))
    become("b", "publish:mine")
    write(catalogue, DATA)
    become()
    assert catalogue.collect(grace_seconds=3600).blobs == 0
    assert catalogue.blobs.size(DIGEST) == len(DATA)


def test_writes_that_are_never_finished_count(catalogue: Catalogue, become: Become) -> None:
    """Only whole blobs counted, so that beginnings of others filled the disk under any quota."""
    catalogue.access.create_namespace("mine", quotas=Quotas(max_bytes=1000))
    become("b", "publish:mine")
    first, second = (digest_bytes(text) for text in (b"first", b"second"))

    def write_one(digest: str, offset: int, size: int) -> WriteProgress:
        return catalogue.tenant_blobs.append(
            digest, size_bytes=600, offset=offset, data=bytes(size)
        )

    write_one(first, 0, 300)
    write_one(second, 0, 300)
    write_one(first, 300, 101)
    for refused in ((second, 300, 300), (digest_bytes(b"third"), 0, 1)):
        with pytest.raises(ResourceExhausted, match="do not fit"):
            write_one(*refused)
    assert write_one(first, 401, 199).committed_size == 600
