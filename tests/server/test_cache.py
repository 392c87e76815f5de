"""The adapters on disk: believed only where they are whole, kept within a budget, and listed."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lorry.admin.v1 import admin_service_pb2
from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.entities import AdapterKey, File
from lorry_registry.errors import DataLoss, FailedPrecondition
from lorry_registry.signatures import SIGNATURE_FILE, SignaturePolicy
from lorry_server.cache import AdapterCache
from lorry_server.registries.local import LocalRegistry

from .conftest import FakeRegistry


@pytest.fixture
def registry():
    return FakeRegistry()


@pytest.fixture
def open_cache(registry, tmp_path):
    def open_cache(**options):
        return AdapterCache(tmp_path / "cache", registry, **options)

    return open_cache


def fetched(cache, version):
    cache.expect(version)
    return cache.fetch(version.digest)


def test_a_folder_that_lacks_bytes_is_not_believed(registry, open_cache):
    """Any folder of the right name used to count, also one whose files a power cut had left empty."""
    version = registry.publish("support")
    weights = fetched(open_cache(), version) / "adapter_model.safetensors"
    good = weights.read_bytes()
    for harm in (lambda: weights.write_bytes(b""), weights.unlink):
        harm()
        cache = open_cache()
        assert cache.local(version.digest) is None
        assert fetched(cache, version) == weights.parent
        assert weights.read_bytes() == good


def test_a_folder_whose_bytes_changed_is_brought_anew(registry, open_cache):
    """A folder that could not be read used to stay, and every request for it failed until somebody removed it."""
    version = registry.publish("support")
    cache = open_cache()
    weights = fetched(cache, version) / "adapter_model.safetensors"
    good = weights.read_bytes()
    registry.fetches = 0
    assert cache.refetch(version.digest) == weights.parent
    assert registry.fetches == 0
    weights.write_bytes(good[::-1])  # of the same size
    assert cache.local(version.digest) == weights.parent
    cache.refetch(version.digest)
    assert weights.read_bytes() == good
    weights.write_bytes(good[::-1])
    (digest,) = (f.digest for f in version.files if f.path == "adapter_model.safetensors")
    registry.blobs[digest] = good[::-1]  # the registry's own copy is spoilt as well
    with pytest.raises(DataLoss):
        cache.refetch(version.digest)


def test_a_copy_of_a_spoilt_blob_is_refused(tmp_path, monkeypatch):
    """Where the file system has no links the blob was copied, and nobody looked at what was copied."""
    blob = tmp_path / "blob"
    blob.write_bytes(b"spoilt")

    class Blobs:
        def local_file(self, digest):
            from contextlib import nullcontext

            return nullcontext(blob)

    class Catalogue:
        blobs = Blobs()

    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    local = LocalRegistry(Catalogue())
    with pytest.raises(DataLoss):
        local.fetch_blob(File("x", "sha256:" + "0" * 64, 6), tmp_path / "target")
    local.close()


def test_the_least_recently_used_goes_where_the_budget_ends(registry, open_cache, monkeypatch):
    """The folder used to grow until the disk was full."""
    monkeypatch.setattr("lorry_server.cache._IN_USE_SECONDS", 0.0)
    versions = [registry.publish(f"task-{n}") for n in range(4)]
    size = sum(file.size_bytes for file in versions[0].files)
    cache = open_cache(max_bytes=3 * size)
    cache.keep(lambda: {versions[0].digest})  # the engine holds it
    for version in versions[:3]:
        fetched(cache, version)
    cache.expect(versions[1])  # somebody asks for it
    fetched(cache, versions[3])
    here = {entry.digest for entry in cache.on_disk()}
    assert here == {versions[n].digest for n in (0, 1, 3)}
    assert cache.local(versions[2].digest) is None
    assert fetched(cache, versions[2]).is_dir()  # it can always come back


def test_what_was_asked_for_a_moment_ago_is_not_removed(registry, open_cache):
    cache = open_cache(max_bytes=1)
    versions = [registry.publish(f"task-{n}") for n in range(3)]
    for version in versions:
        fetched(cache, version)
    assert len(cache.on_disk()) == 3


def test_a_start_knows_what_is_on_disk_and_what_was_used_last(registry, open_cache):
    versions = [registry.publish(f"task-{n}") for n in range(3)]
    for n, version in enumerate(versions):
        moment = time.time() - 1000 * n
        os.utime(fetched(open_cache(), version), (moment, moment))
    entries = open_cache().on_disk()
    assert [entry.reference for entry in entries] == [f"default/task-{n}:1" for n in range(3)]
    assert entries[0].rank == 8


def test_a_name_that_is_gone_is_forgotten_on_disk_too(registry, open_cache):
    """The facts beside the files named a deleted adapter for ever."""
    version = registry.publish("support")
    cache = open_cache()
    fetched(cache, version)
    assert cache.published(version.digest, "support") is not None
    cache.disown(AdapterKey("default", "other"))
    assert cache.published(version.digest, "support") is not None
    cache.disown(AdapterKey("default", "support"))
    for each in (cache, open_cache()):
        assert each.published(version.digest, "support") is None
        assert each.local(version.digest) is not None  # the bytes may be another adapter's as well


async def test_adapters_on_disk_are_listed_and_counted(node):
    """The tier `disk` was in the contract and in the metrics, and never reported."""
    version = node.registry.publish("support")
    await node.generate(pb.GenerateRequest(text="hi", adapter="support"))
    assert node.sample("lorry_adapters", tier="disk") == 0  # in a slot, which is faster
    await node.admin.UnloadAdapter(admin_service_pb2.UnloadAdapterRequest(adapter="support"))
    listed = await node.admin.ListResidents(admin_service_pb2.ListResidentsRequest())
    (resident,) = listed.residents
    assert (resident.digest, resident.tier) == (version.digest, admin_service_pb2.TIER_DISK)
    assert (resident.rank, list(resident.references)) == (8, ["default/support:1"])
    assert resident.size_bytes == sum(file.size_bytes for file in version.files)
    assert node.sample("lorry_adapters", tier="disk") == 1


class TestSignatures:
    """A policy at load: what is not signed by a key that counts is not brought, nor used where it is here."""

    class Policy(SignaturePolicy):
        """Takes what has `good` for a signature."""

        def check(self, folder: Path, files, adapter: str) -> None:
            file = folder / SIGNATURE_FILE
            if not file.exists() or file.read_bytes() != b"good":
                raise FailedPrecondition("not signed", reason="SIGNATURE_MISSING")

    @staticmethod
    def publish(registry, signature: bytes | None):
        version = registry.publish("support")
        if signature is not None:
            digest = "sha256:" + hashlib.sha256(signature).hexdigest()
            registry.blobs[digest] = signature
            signed = File(SIGNATURE_FILE, digest, len(signature))
            version = replace(version, files=(*version.files, signed))
        return version

    def test_what_is_not_signed_is_not_brought(self, tmp_path, registry):
        cache = AdapterCache(tmp_path / "cache", registry, signatures=self.Policy())
        for signature in (None, b"bad"):
            version = self.publish(registry, signature)
            cache.expect(version)
            with pytest.raises(FailedPrecondition):
                cache.fetch(version.digest)
            assert cache.local(version.digest) is None
        good = self.publish(registry, b"good")
        cache.expect(good)
        assert (cache.fetch(good.digest) / SIGNATURE_FILE).read_bytes() == b"good"

    def test_what_was_brought_without_a_policy_is_asked_too(self, tmp_path, registry):
        unsigned, signed = self.publish(registry, None), self.publish(registry, b"good")
        before = AdapterCache(tmp_path / "cache", registry)
        for version in (unsigned, signed):
            before.expect(version)
            before.fetch(version.digest)
        cache = AdapterCache(tmp_path / "cache", registry, signatures=self.Policy())
        for version in (unsigned, signed):
            cache.expect(version)
        assert cache.local(signed.digest) is not None
        assert cache.local(unsigned.digest) is None
        with pytest.raises(FailedPrecondition):
            cache.fetch(unsigned.digest)


def test_a_computed_composition_is_kept_within_the_budget_and_over_a_restart(tmp_path, registry):
    def write(folder):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).write_bytes(b"x" * 100)

    cache = AdapterCache(tmp_path / "cache", registry, 1000)
    digest = "sha256:" + "c" * 64
    assert cache.local(digest) is None
    cache.store(digest, 8, write)
    folder = cache.local(digest)
    assert (folder / "adapter_config.json").read_bytes() == b"x" * 100
    assert [(entry.digest, entry.rank, entry.size_bytes) for entry in cache.on_disk()] == [
        (digest, 8, 200)
    ]
    restarted = AdapterCache(tmp_path / "cache", registry, 1000)
    assert restarted.local(digest) == folder

    def fails(folder):
        raise OSError("No space left on device")

    restarted.store("sha256:" + "d" * 64, 8, fails)
    assert restarted.local("sha256:" + "d" * 64) is None
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["c" * 64]
