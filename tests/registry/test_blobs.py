"""The contract of a BlobStore, for every implementation."""

import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lorry_registry.blobs import BlobStore, WriteProgress
from lorry_registry.digests import digest_bytes
from lorry_registry.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)
from lorry_registry.folder_blobs import UPLOAD_LIFETIME_SECONDS, FolderBlobStore

DATA = bytes(range(256)) * 40
DIGEST = digest_bytes(DATA)
SIZE = len(DATA)

Opener = Callable[[], BlobStore]


@pytest.fixture(params=["folder"])
def reopen(request: pytest.FixtureRequest, home: Path) -> Opener:
    """Opens the store again, as another process would."""
    return {"folder": lambda: FolderBlobStore(home)}[request.param]


@pytest.fixture
def blobs(reopen: Opener) -> BlobStore:
    return reopen()


def write(blobs: BlobStore, data: bytes = DATA) -> WriteProgress:
    digest = digest_bytes(data)
    blobs.append(digest, size_bytes=len(data), offset=0, data=data)
    return blobs.finish(digest, size_bytes=len(data))


def test_a_finished_blob_reads_back(blobs: BlobStore) -> None:
    assert write(blobs) == WriteProgress(SIZE, complete=True)
    assert blobs.size(DIGEST) == SIZE
    with blobs.open(DIGEST) as stream:
        stream.seek(100)
        assert stream.read() == DATA[100:]
    with blobs.local_file(DIGEST) as path:
        assert path.read_bytes() == DATA


def test_the_empty_blob_is_a_blob(blobs: BlobStore) -> None:
    assert write(blobs, b"") == WriteProgress(0, complete=True)
    assert blobs.progress(digest_bytes(b"")).complete


def test_a_blob_that_was_not_finished_does_not_exist(blobs: BlobStore) -> None:
    assert blobs.progress(DIGEST) == WriteProgress(0, complete=False)
    blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA)
    assert blobs.progress(DIGEST) == WriteProgress(SIZE, complete=False)
    for look in (blobs.size, blobs.open):
        with pytest.raises(NotFound) as caught:
            look(DIGEST)
        assert caught.value.reason == "BLOB_NOT_FOUND"
    with pytest.raises(NotFound), blobs.local_file(DIGEST):
        pass


def test_a_write_resumes_where_it_stopped_in_another_process(
    blobs: BlobStore, reopen: Opener
) -> None:
    blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA[:1000])
    assert blobs.flush(DIGEST) == WriteProgress(1000, complete=False)
    later = reopen()
    later.append(DIGEST, size_bytes=SIZE, offset=1000, data=DATA[1000:])
    assert later.finish(DIGEST, size_bytes=SIZE).complete
    with later.open(DIGEST) as stream:
        assert stream.read() == DATA


@pytest.mark.parametrize("offset", [0, 999, 1001, -1])
def test_only_the_committed_size_is_an_offset(blobs: BlobStore, offset: int) -> None:
    blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA[:1000])
    with pytest.raises(OutOfRange) as caught:
        blobs.append(DIGEST, size_bytes=SIZE, offset=offset, data=b"x")
    assert caught.value.metadata["committed_size"] == "1000"
    assert blobs.progress(DIGEST).committed_size == 1000


def test_wrong_bytes_are_discarded(blobs: BlobStore) -> None:
    blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=b"x" * SIZE)
    with pytest.raises(DataLoss) as caught:
        blobs.finish(DIGEST, size_bytes=SIZE)
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert blobs.progress(DIGEST) == WriteProgress(0, complete=False)
    assert write(blobs).complete


def test_bytes_beyond_the_announced_size_are_refused(blobs: BlobStore) -> None:
    with pytest.raises(InvalidArgument, match="go beyond"):
        blobs.append(DIGEST, size_bytes=10, offset=0, data=b"x" * 11)
    assert blobs.progress(DIGEST).committed_size == 0


@pytest.mark.parametrize("size", [-1, 1 << 60])
def test_a_senseless_size_is_refused(blobs: BlobStore, size: int) -> None:
    with pytest.raises(InvalidArgument):
        blobs.append(DIGEST, size_bytes=size, offset=0, data=b"")


def test_finishing_early_is_refused_and_keeps_what_is_there(blobs: BlobStore) -> None:
    blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA[:10])
    with pytest.raises(InvalidArgument) as caught:
        blobs.finish(DIGEST, size_bytes=SIZE)
    assert caught.value.metadata["committed_size"] == "10"
    assert blobs.progress(DIGEST) == WriteProgress(10, complete=False)


def test_writing_what_exists_ends_at_once(blobs: BlobStore) -> None:
    write(blobs)
    done = WriteProgress(SIZE, complete=True)
    assert blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=b"never written") == done
    assert blobs.finish(DIGEST, size_bytes=SIZE) == done
    with blobs.open(DIGEST) as stream:
        assert stream.read() == DATA


def test_many_writers_of_one_blob_never_corrupt_it(reopen: Opener) -> None:
    """Each writer goes on from where the store says it is; whoever is late hears that, or that the blob exists."""
    failures: list[BaseException] = []

    def write_all(seed: int) -> None:
        pieces = random.Random(seed)
        offset = 0
        try:
            store = reopen()
            while True:
                piece = DATA[offset : offset + pieces.randrange(1, 700)]
                try:
                    progress = store.append(DIGEST, size_bytes=SIZE, offset=offset, data=piece)
                    if progress.committed_size == SIZE and not progress.complete:
                        progress = store.finish(DIGEST, size_bytes=SIZE)
                    if progress.complete:
                        return
                    offset = progress.committed_size
                except OutOfRange as late:
                    offset = int(late.metadata["committed_size"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write_all, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    with reopen().open(DIGEST) as stream:
        assert stream.read() == DATA


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_nothing_is_lost(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA[:500])
    real = os.write

    def half_then_full(descriptor: int, data: bytes) -> int:
        if len(data) > 100:
            return real(descriptor, data[:100])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half_then_full)
        with pytest.raises(ResourceExhausted) as caught:
            blobs.append(DIGEST, size_bytes=SIZE, offset=500, data=DATA[500:750])
    assert caught.value.reason == "DISK_FULL"
    # What did reach the disk counts, and the rest follows it exactly.
    committed = blobs.progress(DIGEST).committed_size
    assert committed == 700
    blobs.append(DIGEST, size_bytes=SIZE, offset=committed, data=DATA[committed:])
    assert blobs.finish(DIGEST, size_bytes=SIZE).complete


class TestFolder:
    """What only the folder promises."""

    def test_nothing_but_the_blob_is_left(self, home: Path) -> None:
        write(FolderBlobStore(home))
        files = [path for path in home.rglob("*") if path.is_file()]
        hexes = DIGEST.removeprefix("sha256:")
        assert files == [home / "blobs" / "sha256" / hexes[:2] / hexes]
        assert files[0].stat().st_mode & 0o222 == 0

    def test_an_empty_upload_beside_a_blob_is_swept(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer that looked before the other finished opens a fresh file; it must not become an upload."""
        store = FolderBlobStore(home)
        write(store)
        blob = store._blob(DIGEST)
        looks = iter([False, True])
        real = Path.exists

        def first_look_is_early(path: Path) -> bool:
            return next(looks) if path == blob else real(path)

        monkeypatch.setattr(Path, "exists", first_look_is_early)
        assert store.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA).complete
        assert list((home / "uploads").iterdir()) == []

    def test_a_home_that_cannot_be_written_is_refused_at_start(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(FailedPrecondition, match="cannot be written") as caught:
            FolderBlobStore(tmp_path / "file" / "home")
        assert caught.value.reason == "HOME_UNWRITABLE"

    def test_uploads_that_nobody_goes_on_with_are_dropped_at_start(self, home: Path) -> None:
        """Unfinished uploads stayed for ever, and filled the disk."""
        store = FolderBlobStore(home)
        digests = [digest_bytes(bytes([i])) for i in range(3)]
        for digest in digests:
            store.append(digest, size_bytes=9, offset=0, data=b"half")
        write(store)
        for path in (*(store._upload(digest) for digest in digests[:2]), store._blob(DIGEST)):
            long_ago = time.time() - UPLOAD_LIFETIME_SECONDS - 60
            os.utime(path, (long_ago, long_ago))
        with store._upload(digests[1]).open("rb") as being_written:
            fcntl.flock(being_written, fcntl.LOCK_EX)
            again = FolderBlobStore(home)
        sizes = [again.progress(digest).committed_size for digest in digests]
        assert sizes == [0, 4, 4]
        assert again.progress(DIGEST).complete
