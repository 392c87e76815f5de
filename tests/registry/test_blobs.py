"""The contract of a BlobStore, for every implementation."""

import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from botocore.exceptions import EndpointConnectionError
from fsspec.asyn import sync_wrapper

from lorry_registry.blob_stores import open_blobs
from lorry_registry.blobs import BlobStore, WriteProgress
from lorry_registry.digests import digest_bytes
from lorry_registry.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from lorry_registry.folder_blobs import UPLOAD_LIFETIME_SECONDS, FolderBlobStore
from lorry_registry.memory_objects import MemoryObjects
from lorry_registry.object_blobs import ObjectBlobStore
from lorry_registry.s3_objects import MIN_PART_BYTES, S3Objects

from .buckets import new_bucket

DATA = bytes(range(256)) * 40
DIGEST = digest_bytes(DATA)
SIZE = len(DATA)

Opener = Callable[[], BlobStore]


@pytest.fixture(params=["folder", "memory", "s3"])
def reopen(request: pytest.FixtureRequest, home: Path) -> Opener:
    """Opens the store again, as another process would: it knows nothing that is not in the store."""
    if request.param == "folder":
        return lambda: open_blobs(home)
    if request.param == "memory":
        objects = MemoryObjects()
        return lambda: ObjectBlobStore(objects)
    request.getfixturevalue("s3")
    url = new_bucket()
    return lambda: open_blobs(home, url)


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
                piece = DATA[offset : offset + pieces.randrange(1, 2500)]
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


def test_more_than_the_blob_has_is_no_part_of_it(blobs: BlobStore) -> None:
    """A write that was announced too large stood in the way of the right one for ever."""
    blobs.append(DIGEST, size_bytes=SIZE + 9, offset=0, data=b"x" * (SIZE + 9))
    with pytest.raises(DataLoss):
        blobs.append(DIGEST, size_bytes=SIZE, offset=SIZE + 9, data=b"")
    assert write(blobs).complete


def test_what_another_process_wrote_is_part_of_the_digest(reopen: Opener) -> None:
    """Each process has seen a part of the bytes, and one of them other bytes than those that are there by now."""
    one, two = reopen(), reopen()
    one.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA[:1000])
    with pytest.raises(DataLoss):
        two.append(DIGEST, size_bytes=10, offset=0, data=b"")
    two.append(DIGEST, size_bytes=SIZE, offset=0, data=b"x" * 1000)
    one.append(DIGEST, size_bytes=SIZE, offset=1000, data=DATA[1000:])
    with pytest.raises(DataLoss) as caught:
        one.finish(DIGEST, size_bytes=SIZE)
    assert caught.value.reason == "DIGEST_MISMATCH"
    one.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA[:1000])
    two.append(DIGEST, size_bytes=SIZE, offset=1000, data=DATA[1000:2000])
    one.append(DIGEST, size_bytes=SIZE, offset=2000, data=DATA[2000:])
    assert two.finish(DIGEST, size_bytes=SIZE).complete
    with one.open(DIGEST) as stream:
        assert stream.read() == DATA


def test_what_is_there_is_listed(blobs: BlobStore) -> None:
    before = time.time() - 2  # some stores keep whole seconds
    assert list(blobs.blobs()) == list(blobs.leftovers()) == []
    others = [bytes([i]) * (i + 1) for i in range(5)]
    for data in (DATA, *others):
        write(blobs, data)
    blobs.append(digest_bytes(b"half"), size_bytes=4, offset=0, data=b"ha")
    listed = list(blobs.blobs())
    assert [one.digest for one in listed] == sorted(map(digest_bytes, (DATA, *others)))
    assert {one.digest: one.size_bytes for one in listed}[DIGEST] == SIZE
    assert all(before < one.modified < time.time() + 2 for one in listed)
    (left,) = blobs.leftovers()
    assert left.size_bytes == 2
    assert before < left.modified < time.time() + 2


def test_a_blob_is_deleted_for_everybody(reopen: Opener) -> None:
    one, two = reopen(), reopen()
    write(one)
    two.delete(DIGEST)
    two.delete(DIGEST)
    assert one.progress(DIGEST) == WriteProgress(0, complete=False)
    assert write(one).complete


def test_touching_makes_young(blobs: BlobStore) -> None:
    write(blobs)
    (before,) = blobs.blobs()
    deadline = time.monotonic() + 10
    while True:
        blobs.touch(DIGEST)
        (after,) = blobs.blobs()
        if after.modified > before.modified:
            break
        assert time.monotonic() < deadline
    assert after.size_bytes == SIZE
    with blobs.open(DIGEST) as stream:
        assert stream.read() == DATA
    blobs.touch(digest_bytes(b"nobody"))


def test_a_leftover_is_dropped_unless_somebody_went_on_with_it(blobs: BlobStore) -> None:
    blobs.append(DIGEST, size_bytes=SIZE, offset=0, data=DATA[:10])
    (left,) = blobs.leftovers()
    assert not blobs.drop(left, older_than=left.modified - 1)
    assert blobs.progress(DIGEST).committed_size == 10
    assert blobs.drop(left, older_than=time.time() + 2)
    assert blobs.progress(DIGEST) == WriteProgress(0, complete=False)
    assert list(blobs.leftovers()) == []
    blobs.drop(left, older_than=time.time() + 2)
    assert write(blobs).complete


def test_what_is_set_aside_is_pushed_again(blobs: BlobStore) -> None:
    write(blobs)
    assert DIGEST.removeprefix("sha256:") in blobs.set_aside(DIGEST)
    assert list(blobs.blobs()) == []
    assert not blobs.progress(DIGEST).complete
    assert write(blobs).complete
    blobs.set_aside(DIGEST)  # twice, and nothing is in the way


class TestFolder:
    """What only the folder promises."""

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_is_told_and_nothing_is_lost(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        blobs = FolderBlobStore(home)
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


class TestS3:
    """What only S3 does, and what it does wrong."""

    @pytest.fixture
    def url(self, s3: str) -> str:
        return new_bucket()

    def test_large_parts_are_assembled_inside_the_store(
        self, url: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The digest was taken as they came, so that no byte is read back."""
        blobs = open_blobs(home, url)
        data = os.urandom(1 << 20) * 13
        size, digest, step = len(data), digest_bytes(data), MIN_PART_BYTES
        for offset in range(0, size, step):
            piece = data[offset : offset + step]
            blobs.append(digest, size_bytes=size, offset=offset, data=piece)
        with monkeypatch.context() as patched:
            patched.setattr(S3Objects, "read", lambda *_: pytest.fail("read back"))
            assert blobs.finish(digest, size_bytes=size).complete
        with blobs.open(digest) as stream:
            assert stream.read() == data
        assert list(blobs.leftovers()) == []

    def test_small_parts_among_large_ones_are_joined(self, url: str, home: Path) -> None:
        blobs = open_blobs(home, url)
        data = os.urandom(1 << 20) * 13
        size, digest, offset = len(data), digest_bytes(data), 0
        for length in (1, MIN_PART_BYTES, 70_000, 3 << 20, size):
            piece = data[offset : offset + length]
            blobs.append(digest, size_bytes=size, offset=offset, data=piece)
            offset += len(piece)
        again = open_blobs(home, url)  # which has seen none of it
        assert again.finish(digest, size_bytes=size).complete
        with again.local_file(digest) as path:
            assert path.read_bytes() == data

    def test_a_store_that_does_not_answer_is_told(self, url: str, home: Path) -> None:
        blobs = open_blobs(home, url)
        assert isinstance(blobs, ObjectBlobStore)

        async def away(*_: object, **__: object) -> object:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

        with (
            mock.patch.object(blobs._objects._s3, "_call_s3", away),
            mock.patch.object(  # type: ignore[attr-defined]
                blobs._objects._s3,
                "call_s3",
                sync_wrapper(away, obj=blobs._objects._s3),  # type: ignore[attr-defined]
            ),
        ):
            for call in (
                lambda: blobs.progress(DIGEST),
                lambda: write(blobs),
                lambda: list(blobs.blobs()),
            ):
                with pytest.raises(Unavailable) as caught:
                    call()
                assert caught.value.reason == "BLOBS_UNAVAILABLE"

    def test_a_bucket_that_is_not_there_is_told_at_start(self, s3: str, home: Path) -> None:
        with pytest.raises(FailedPrecondition, match="nobody-has-it") as caught:
            open_blobs(home, "s3://nobody-has-it/x")
        assert caught.value.reason == "BLOBS_UNWRITABLE"

    def test_a_store_that_overwrites_is_refused(
        self, url: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = S3Objects._call

        def forgetful(self: S3Objects, verb: str, **arguments: object) -> object:
            arguments.pop("IfNoneMatch", None)
            return real(self, verb, **arguments)

        monkeypatch.setattr(S3Objects, "_call", forgetful)
        with pytest.raises(FailedPrecondition) as caught:
            open_blobs(home, url)
        assert caught.value.reason == "BLOBS_UNSUITABLE"

    def test_bytes_that_went_bad_are_not_handed_on(self, url: str, home: Path) -> None:
        blobs = open_blobs(home, url)
        write(blobs)
        assert isinstance(blobs, ObjectBlobStore)
        key = next(iter(blobs._objects.find("blobs/"))).key
        blobs._objects.delete([key])
        blobs._objects.create(key, b"x" * SIZE)
        with pytest.raises(DataLoss), blobs.local_file(DIGEST):
            pass

    def test_an_assembly_that_was_not_finished_is_a_leftover(self, url: str, home: Path) -> None:
        blobs = open_blobs(home, url)
        assert isinstance(blobs, ObjectBlobStore)
        objects = blobs._objects
        assert isinstance(objects, S3Objects)
        objects._call("create_multipart_upload", Key=objects._at("blobs/sha256/ab/abc"))
        (left,) = blobs.leftovers()
        assert blobs.drop(left, older_than=time.time())
        assert list(blobs.leftovers()) == []


@pytest.mark.parametrize(
    "url", ["gcs://bucket", "s3://", "file://host/x", "memory://x", "http://h"]
)
def test_a_url_of_no_store_is_refused(home: Path, url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_blobs(home, url)
    assert caught.value.reason == "BLOBS_INVALID"


def test_a_folder_is_meant_by_its_path_or_its_url(tmp_path: Path) -> None:
    write(open_blobs(tmp_path / "home", str(tmp_path / "a b")))
    assert open_blobs(tmp_path / "home", f"file://{tmp_path}/a%20b").progress(DIGEST).complete
    assert not (tmp_path / "home").exists()
