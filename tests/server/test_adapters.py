"""References to digests to folders: at once, once, and whole, also while the registry is away."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from lorry_server.adapters import AdapterDirectory
from lorry_server.cache import AdapterCache


def request(adapter: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text="hello", adapter=adapter, sampling=pb.SamplingParameters(max_tokens=2)
    )


async def test_an_alias_that_moves_takes_effect_with_the_next_request(node):
    first, second = node.registry.publish("support"), node.registry.publish("support")
    for version in (first, second, first):
        node.registry.aliases["support@production"] = version.number
        answer = await node.inference.GenerateUnary(request("support@production"))
        assert answer.completion.adapter_digest == version.digest
    assert node.directory.references(first.digest) == ("default/support:1",)


async def test_without_the_registry_the_last_answer_holds_and_the_log_says_so(node, caplog):
    version = node.registry.publish("support")
    node.registry.publish("never-asked")
    await node.generate(request("support"))
    node.registry.away = True
    answer = await node.inference.GenerateUnary(request("support"))
    await node.generate(request("support"))
    assert answer.completion.adapter_digest == version.digest
    assert len([record for record in caplog.records if "away" in record.message]) == 1
    assert (await node.refusal(request("never-asked")))[1] == "REGISTRY_UNAVAILABLE"
    await node.generate(pb.GenerateRequest(text="the bare base needs no registry"))
    node.registry.away = False
    await node.generate(request("support"))
    assert "answers again" in caplog.text


async def test_after_a_restart_a_digest_on_disk_needs_no_registry(node, base):
    version = node.registry.publish("support")
    await node.generate(request("support"))
    node.registry.away = True
    cache = AdapterCache(node.directory._cache._folder, node.registry)
    restarted = AdapterDirectory(node.registry, base, max_rank=16, cache=cache)
    resolved = await restarted.resolve(f"support@{version.digest}")
    assert resolved.reference == f"default/support@{version.digest}"
    assert (cache.fetch(version.digest) / "adapter_config.json").is_file()
    with pytest.raises(Unavailable):
        await restarted.resolve(f"another@{version.digest}")
    with pytest.raises(Unavailable):
        await restarted.resolve("support")


@pytest.fixture
def registry(node):
    return node.registry


async def test_many_threads_one_fetch(registry, tmp_path):
    version = registry.publish("support")
    cache = AdapterCache(tmp_path / "other", registry)
    cache.expect(version)
    slow, started = registry.fetch_blob, threading.Barrier(8)

    def fetch_slowly(file, target):
        time.sleep(0.02)
        slow(file, target)

    registry.fetch_blob = fetch_slowly

    def fetch(_):
        started.wait()
        return cache.fetch(version.digest)

    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(fetch, range(8)))
    assert registry.fetches == 2  # two files
    (folder,) = folders
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "lorry.json",
    ]  # fmt: skip


async def test_a_fetch_that_fails_leaves_nothing_and_can_be_tried_again(registry, tmp_path):
    version = registry.publish("support")
    cache = AdapterCache(tmp_path / "other", registry)
    with pytest.raises(NotFound):
        cache.fetch(version.digest)
    cache.expect(version)
    registry.away = True
    with pytest.raises(Unavailable):
        cache.fetch(version.digest)
    assert not list((tmp_path / "other").iterdir())
    registry.away = False

    def full(file, target):
        raise OSError(28, "No space left on device")

    works, registry.fetch_blob = registry.fetch_blob, full
    with pytest.raises(ResourceExhausted, match="No space left"):
        cache.fetch(version.digest)
    registry.fetch_blob = works
    assert cache.fetch(version.digest).is_dir()


def test_an_unwritable_home_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FailedPrecondition) as refused:
        AdapterCache(tmp_path / "file" / "cache", registry=None)
    assert refused.value.reason == "HOME_UNWRITABLE"


def test_what_a_crash_left_behind_is_cleared_once_it_is_old(tmp_path):
    old, young = tmp_path / "cache/.partial-old", tmp_path / "cache/.partial-young"
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (1, 1))
    AdapterCache(tmp_path / "cache", registry=None)
    assert (old.exists(), young.exists()) == (False, True)
