"""Mutated requests to the inference and admin services: every answer is one of our own."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parents[2] / "loadtests"))

import registry_fuzz as fuzz

from lorry_registry.access.authority import Credentials
from lorry_registry.access.entities import ANYONE, Quotas
from lorry_registry.rpc.gate import Gate
from lorry_server.access import SERVER_RULES
from tests.registry.contract import SERVER_FILES, methods

BAD = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)


class Open:
    """Asks nobody who they are."""

    async def identify(self, credentials: Credentials):
        return ANYONE

    async def quotas(self, namespace: str):
        return Quotas()

    async def record(self, event) -> None:
        pass


async def send(channel: grpc.aio.Channel, name: str, data: bytes, *, streams: bool):
    try:
        if streams:
            async for _ in channel.unary_stream(name)(data, timeout=5):
                pass
        else:
            await channel.unary_unary(name)(data, timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


async def test_every_answer_is_one_of_our_own(start_node):
    rng = random.Random(4)
    known = sorted(methods(*SERVER_FILES).items())
    codes = set()
    async with start_node(gate=Gate(SERVER_RULES, Open())) as node:
        node.registry.publish("fuzz")
        for _ in range(500):
            name, method = rng.choice(known)
            data = fuzz.any_message(rng, method.input_type).SerializeToString()
            for _ in range(rng.randrange(1, 4) if rng.random() < 0.4 else 0):
                data = fuzz._mutate_bytes(rng, data)
            code, said = await send(node.channel, name, data, streams=method.server_streaming)
            assert code not in BAD, (name, data, said)
            codes.add(code.name)
    assert {"OK", "INVALID_ARGUMENT"} <= codes
