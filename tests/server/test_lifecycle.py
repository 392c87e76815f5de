"""The end of a server: what runs finishes or is told, what is new is refused, and a dead engine ends the process."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_server.lifecycle import shut_down, until_failed


def request(max_tokens: int) -> pb.GenerateRequest:
    sampling = pb.SamplingParameters(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(text="hello", sampling=sampling)


def stop(node, drain_seconds: float) -> asyncio.Task[None]:
    return asyncio.create_task(
        shut_down(
            host=node.host,
            inference=node.services.inference,
            engine=node.engine,
            interrupt=node.registry.interrupt,
            idle=node.dispatcher.idle,
            drain_seconds=drain_seconds,
        )
    )


async def rest(stream) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def health(node) -> int:
    stub = health_pb2_grpc.HealthStub(node.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest())).status


async def test_streams_finish_while_new_requests_are_refused(start_node):
    async with start_node(step_seconds=0.01) as node:
        assert await health(node) == health_pb2.HealthCheckResponse.SERVING
        streams = [asyncio.create_task(node.generate(request(60))) for _ in range(3)]
        while node.engine.stats().running < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stopping = stop(node, drain_seconds=10)
        await asyncio.sleep(0.05)
        assert await health(node) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await node.refusal(request(2)))[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        for deltas in await asyncio.gather(*streams):
            assert deltas[-1].completion.usage.completion_tokens == 60
        await asyncio.wait_for(stopping, 5)


async def test_what_does_not_finish_in_time_is_told_so(start_node):
    async with start_node(step_seconds=0.05) as node:
        stream = node.inference.Generate(request(150))
        await stream.read()
        node.engine.paused.set()
        queued = node.inference.GenerateUnary(request(2))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(stop(node, drain_seconds=0.2), 5)
        for call in (rest(stream), queued):
            with pytest.raises(grpc.aio.AioRpcError, match="stopped") as told:
                await call
            assert told.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_reads_from_the_registry_end_before_the_engine_is_asked_to(node, monkeypatch):
    """The engine's loader waited for a download that hung, and the process for the loader: up to ten minutes."""
    seen = []
    stop_engine = node.engine.stop
    monkeypatch.setattr(node.registry, "interrupt", lambda: seen.append("interrupt"))
    monkeypatch.setattr(
        node.engine, "stop", lambda **how: (seen.append("engine"), stop_engine(**how))
    )
    await asyncio.wait_for(stop(node, drain_seconds=1), 5)
    assert seen[:2] == ["interrupt", "engine"]


async def test_someone_who_only_watches_does_not_hold_up_the_end(node):
    watching = health_pb2_grpc.HealthStub(node.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
    await asyncio.wait_for(stop(node, drain_seconds=30), 5)


async def test_a_dead_engine_is_noticed(node):
    noticing = asyncio.create_task(until_failed(node.engine))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(noticing), 0.3)
    node.engine.broken_by = RuntimeError("gone")
    assert str(await asyncio.wait_for(noticing, 2)) == "gone"
