"""Collecting garbage and checking what is left, beside whoever publishes."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorry_client.cli.main import build_app
from lorry_registry import catalogue as catalogue_module
from lorry_registry.admission import check_blobs
from lorry_registry.blobs import BlobStore
from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import digest_bytes
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, File
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_registry.folder_blobs import FolderBlobStore
from lorry_registry.object_blobs import ObjectBlobStore
from lorry_registry.upkeep.fsck import Checked, Problem
from lorry_registry.upkeep.garbage import Collected

from .helpers import KEY, adapter_bytes, make_base, publish, upload

SOON = -5.0
"""A grace that nothing is younger than, on clocks of whole seconds too."""


@pytest.fixture
def catalogue(home: Path, stores: dict[str, str]) -> Iterator[Catalogue]:
    opened = open_catalogue(home, **stores)
    opened.put_base(make_base())
    opened.create_adapter(KEY)
    yield opened
    opened.close()


@pytest.fixture
def other(home: Path, stores: dict[str, str], catalogue: Catalogue) -> Iterator[Catalogue]:
    """Another process's, on the same stores."""
    opened = open_catalogue(home, **stores)
    yield opened
    opened.close()


def digests(catalogue: Catalogue) -> set[str]:
    return {blob.digest for blob in catalogue.blobs.blobs()}


def spoil(blobs: BlobStore, digest: str, data: bytes) -> None:
    """Puts other bytes in a blob's place, as a failing disk does."""
    if isinstance(blobs, FolderBlobStore):
        path = blobs._blob(digest)
        path.chmod(0o644)
        path.write_bytes(data)
        return
    assert isinstance(blobs, ObjectBlobStore)
    key = f"blobs/sha256/{digest[7:9]}/{digest[7:]}"
    blobs._objects.delete([key])
    blobs._objects.create(key, data)


class TestCollecting:
    def test_exactly_what_no_version_names_goes(self, catalogue: Catalogue) -> None:
        version = publish(catalogue, adapter_bytes())
        used = {file.digest for file in version.files}
        lost = upload(catalogue, adapter_bytes(seed=9))
        shared = {file.digest for file in lost} & used
        assert shared, "the configuration is both's"
        half = digest_bytes(b"never finished")
        catalogue.blobs.append(half, size_bytes=14, offset=0, data=b"never")
        before = digests(catalogue)

        planned = catalogue.collect(grace_seconds=SOON, dry_run=True)
        assert digests(catalogue) == before
        weights = next(file for file in lost if file.digest not in used)
        assert planned == Collected(0, 1, weights.size_bytes, 1, 5)
        assert catalogue.collect(grace_seconds=SOON) == planned
        assert digests(catalogue) == used
        assert list(catalogue.blobs.leftovers()) == []
        assert catalogue.collect(grace_seconds=SOON) == Collected()
        assert list(catalogue.check()) == []

    def test_what_is_young_stays(self, catalogue: Catalogue) -> None:
        upload(catalogue, adapter_bytes())
        catalogue.blobs.append(digest_bytes(b"half"), size_bytes=4, offset=0, data=b"ha")
        assert catalogue.collect(grace_seconds=3600) == Collected()

    def test_asking_whether_a_blob_is_missing_makes_it_young(self, catalogue: Catalogue) -> None:
        """A push that finds a blob there does not send it, and would find it gone when it creates the version."""
        manifest = upload(catalogue, adapter_bytes())
        old = {blob.digest: blob.modified for blob in catalogue.blobs.blobs()}
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert catalogue.missing_blobs([file.digest for file in manifest]) == []
            if all(b.modified > old[b.digest] for b in catalogue.blobs.blobs()):
                return
        pytest.fail("their age stayed")

    def test_a_deleted_adapters_blobs_go(self, catalogue: Catalogue) -> None:
        publish(catalogue, adapter_bytes())
        catalogue.create_adapter(AdapterKey("default", "other"))
        catalogue.delete_adapter(KEY, force=True)
        assert catalogue.collect(grace_seconds=SOON) == Collected()  # it may be brought back
        catalogue.purge_adapter(KEY)
        assert catalogue.collect(grace_seconds=SOON).blobs == 2
        assert digests(catalogue) == set()


class TestBesidePublishing:
    """The race between a blob that is deleted and the version that would name it, from both sides."""

    def test_a_blob_collected_after_the_look_is_missed_before_the_row(
        self, catalogue: Catalogue, other: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = catalogue_module.admit

        def admit_then_collect(*args: object, **kwargs: object) -> object:
            admitted = real(*args, **kwargs)  # type: ignore[arg-type]
            assert other.collect(grace_seconds=SOON).blobs == 2
            return admitted

        with monkeypatch.context() as patched:
            patched.setattr(catalogue_module, "admit", admit_then_collect)
            with pytest.raises(FailedPrecondition) as caught:
                publish(catalogue, adapter_bytes())
        assert caught.value.reason == "BLOBS_MISSING"
        assert other.list_versions(KEY).items == ()
        assert publish(catalogue, adapter_bytes()).number == 1  # sent again, as a client does

    def test_a_blob_of_a_version_that_is_being_written_stays(
        self, catalogue: Catalogue, other: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The collection finds them unused, and is at the deletion when the version's transaction has seen them."""
        at_deletion = threading.Event()
        collected: list[Collected] = []
        real_discard = other._store.discard_blobs

        def discard(*args: object) -> list[str]:
            at_deletion.set()
            return real_discard(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(other._store, "discard_blobs", discard)
        collector = threading.Thread(
            target=lambda: collected.append(other.collect(grace_seconds=SOON))
        )
        looks = []

        def look(blobs: BlobStore, files: list[File]) -> None:
            check_blobs(blobs, files)
            looks.append(files)
            if len(looks) == 2:  # the one within the transaction
                collector.start()
                assert at_deletion.wait(20)
                # Time to do wrong in, were it not made to wait.
                collector.join(0.3)
                assert collector.is_alive()

        with monkeypatch.context() as patched:
            patched.setattr(catalogue_module, "check_blobs", look)
            version = publish(catalogue, adapter_bytes())
        collector.join(30)
        assert collected == [Collected()]
        assert digests(catalogue) == {file.digest for file in version.files}
        assert list(catalogue.check()) == []

    def published(self, catalogue: Catalogue, seed: int) -> bool:
        """Whether it came through; without any grace, what was sent may be collected before it is named."""
        try:
            publish(catalogue, adapter_bytes(seed=seed))
        except (FailedPrecondition, InvalidArgument) as error:
            if error.reason not in ("BLOBS_MISSING", "BLOB_SIZE_MISMATCH"):
                raise
            return False
        return True

    def test_collecting_all_the_time_hurts_no_push(
        self, catalogue: Catalogue, other: Catalogue
    ) -> None:
        def collect() -> None:
            for _ in range(12):
                other.collect(grace_seconds=SOON)
                time.sleep(0.05)  # for a push now and then to come between

        collector = threading.Thread(target=collect)
        collector.start()
        for seed in range(6):
            while not self.published(catalogue, seed):
                pass
        collector.join(30)
        assert list(catalogue.check()) == []
        assert [v.number for v in catalogue.list_versions(KEY).items] == [6, 5, 4, 3, 2, 1]


class TestChecking:
    def test_what_is_whole_is_found_whole(self, catalogue: Catalogue) -> None:
        for seed in range(3):
            publish(catalogue, adapter_bytes(seed=seed))
        checked = Checked()
        assert list(catalogue.check(checked=checked)) == []
        assert (checked.blobs, checked.versions) == (4, 3)
        assert checked.blob_bytes == sum(blob.size_bytes for blob in catalogue.blobs.blobs())

    def test_each_thing_that_is_wrong_is_found(self, catalogue: Catalogue) -> None:
        files = [dict(adapter_bytes(seed=seed)) for seed in range(3)]
        versions = [publish(catalogue, one) for one in files]
        weights = [digest_bytes(one["adapter_model.safetensors"]) for one in files]
        config = digest_bytes(files[0]["adapter_config.json"])
        spoil(catalogue.blobs, weights[0], b"x" * len(files[0]["adapter_model.safetensors"]))
        catalogue.blobs.delete(weights[1])
        stray = upload(catalogue, {"stray": b"stray"})[0].digest
        spoil(catalogue.blobs, stray, b"strax")
        found = {(f.problem, f.what): f for f in catalogue.check()}
        assert set(found) == {
            (Problem.BLOB_CORRUPT, weights[0]),
            (Problem.BLOB_MISSING, weights[1]),
            (Problem.BLOB_CORRUPT, stray),
        }
        assert found[Problem.BLOB_MISSING, weights[1]].versions == ("default/support:2",)
        assert found[Problem.BLOB_CORRUPT, stray].versions == ()
        assert config in digests(catalogue)

        repaired = list(catalogue.check(repair=True))
        assert [f.problem for f in repaired if f.set_aside] == [Problem.BLOB_CORRUPT] * 2
        # Pushing the same files heals both versions, which stay what they were.
        assert [f.problem for f in catalogue.check()] == [Problem.BLOB_MISSING] * 2
        assert [publish(catalogue, one) for one in files] == versions
        assert list(catalogue.check()) == []

    def test_a_manifest_that_is_not_its_digests_is_found(self, catalogue: Catalogue) -> None:
        publish(catalogue, adapter_bytes())
        engine = catalogue._store._engine  # type: ignore[attr-defined]
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE version_files SET size_bytes = 1 WHERE path = 'adapter_config.json'"
            ).close()
        problems = [finding.problem for finding in catalogue.check()]
        assert problems == [Problem.BLOB_SIZE, Problem.MANIFEST]


def run(command: str, home: Path, stores: dict[str, str], *options: str) -> tuple[int, str]:
    where = [part for name, url in stores.items() for part in (f"--{name}", url)]
    arguments = ["registry", command, "--home", str(home), *where, *options]
    result = CliRunner().invoke(build_app(), arguments)
    return result.exit_code, result.output


def test_the_commands(catalogue: Catalogue, home: Path, stores: dict[str, str]) -> None:
    files = adapter_bytes()
    publish(catalogue, files)
    upload(catalogue, {"stray": b"stray"})
    assert run("gc", home, stores) == (
        0,
        "purged 0 deleted adapters and versions, and collected 0 blobs (0 bytes) and 0 unfinished writes (0 bytes)\n",
    )
    code, said = run("fsck", home, stores)
    assert (code, said.strip().endswith("all is well")) == (0, True)
    weights = digest_bytes(files["adapter_model.safetensors"])
    spoil(catalogue.blobs, weights, b"")
    code, said = run("fsck", home, stores)
    assert code == 1
    assert f"blob corrupt: {weights} of default/support:1; `--repair` sets it aside" in said
    code, said = run("fsck", home, stores, "--repair")
    assert code == 1
    assert "push the same files again" in said
    publish(catalogue, files)
    assert run("fsck", home, stores)[0] == 0


@pytest.mark.parametrize("command", ["gc", "fsck"])
def test_a_registry_that_is_not_there_is_not_in_good_order(command: str, tmp_path: Path) -> None:
    """Without the right --home a registry was made there, and all was well in it."""
    arguments = ["registry", command, "--home", str(tmp_path / "other")]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 3
    assert "HOME_NOT_FOUND" in result.output
    assert not (tmp_path / "other").exists()
