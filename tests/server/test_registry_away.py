"""A registry that hangs, or has forgotten an adapter, or is asked for long lists."""

from __future__ import annotations

import asyncio
import time

import pytest

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.errors import NotFound, Unavailable
from lorry_server.adapters import AdapterDirectory
from lorry_server.cache import AdapterCache
from lorry_server.registries import patience


async def test_a_registry_that_hangs_costs_one_request_its_time(node, monkeypatch):
    """Every request used to wait five seconds for a registry that hung, before the last known answer was taken."""
    monkeypatch.setattr(patience, "_SLOW_SECONDS", 0.1)
    monkeypatch.setattr(patience, "_BETWEEN_PROBES_SECONDS", 0.05)
    version = node.registry.publish("support")
    await node.directory.resolve("support")
    node.registry.hangs_for = 0.2
    await node.directory.resolve("support")
    started = time.monotonic()
    for _ in range(50):
        assert (await node.directory.resolve("support")).digest == version.digest
        with pytest.raises(Unavailable):
            await node.directory.resolve("never-asked")
    assert time.monotonic() - started < 0.2
    assert node.registry.resolving <= 1  # the probe
    newer = node.registry.publish("support")
    node.registry.hangs_for = 0.0
    async with asyncio.timeout(5):
        while (await node.directory.resolve("support")).digest != newer.digest:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_deleted_adapter_stays_deleted_when_the_registry_goes_away(node, base):
    """It came back: the reference's last meaning was remembered though the registry had said NOT_FOUND since."""
    version = node.registry.publish("support")
    names = ["support", "support:1", f"support@{version.digest}"]
    for name in names:
        await node.directory.resolve(name)
    await node.generate(pb.GenerateRequest(text="hi", adapter="support"))
    del node.registry.versions["support"]
    with pytest.raises(NotFound):
        await node.directory.resolve("support")
    assert node.directory.references(version.digest) == ()
    node.registry.away = True
    cache = AdapterCache(node.directory._cache._folder, node.registry)
    restarted = AdapterDirectory(node.registry, base, max_rank=16, cache=cache)
    for directory in (node.directory, restarted):
        for name in names:
            with pytest.raises(Unavailable):
                await directory.resolve(name)


async def test_an_alias_that_is_gone_takes_only_itself_along(node):
    version = node.registry.publish("support")
    node.registry.aliases["support@beta"] = 1
    for name in ("support", "support@beta"):
        await node.directory.resolve(name)
    del node.registry.aliases["support@beta"]
    with pytest.raises(NotFound):
        await node.directory.resolve("support@beta")
    node.registry.away = True
    assert (await node.directory.resolve("support")).digest == version.digest
    with pytest.raises(Unavailable):
        await node.directory.resolve("support@beta")


async def test_long_lists_leave_the_registry_to_requests(node):
    """A page of a thousand models asked the registry a thousand things at once, and requests waited behind them."""
    for n in range(60):
        node.registry.publish(f"task-{n}")
    asked = pb.ListModelsRequest(page_size=1000)
    pages = await asyncio.gather(*(node.inference.ListModels(asked) for _ in range(3)))
    assert [len(page.models) for page in pages] == [61] * 3
    assert node.registry.most_resolving <= 2
