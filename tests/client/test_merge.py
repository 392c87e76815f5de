"""Merged mode through both clients and the command line."""

from __future__ import annotations

from typing import Any

from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_client import AsyncClient, Client

from .test_cli import invoke


async def test_both_clients_merge_and_unmerge(server: Any) -> None:
    with Client() as client:
        merged = client.merge("intent")
        assert (merged.cause, merged.active, merged.references) == ("operator", True, ("intent",))
        assert (merged.size_bytes, merged.merge_seconds) == (1 << 20, 1.5)
        assert client.status().merge == merged
        client.unmerge()
        assert client.status().merge is None
    async with AsyncClient() as client:
        assert (await client.merge("a*0.7+b*0.3")).references == ("a+b",)
        await client.unmerge()
        assert (await client.status()).merge is None


async def test_a_request_may_ask_for_its_adapter_merged(server: Any) -> None:
    sent = server.inference.requests
    with Client() as client:
        client.generate("x", "intent", merged=True)
        list(client.stream("x", "intent", merged=True))
        client.generate("x", "intent")
    async with AsyncClient() as client:
        await client.generate("x", "intent", merged=True)
    assert invoke("generate", "x", "-a", "intent", "--merged").exit_code == 0
    assert invoke("generate", "x", "-a", "intent", "--merged", "--json").exit_code == 0
    asked = [request.execution == pb.EXECUTION_MERGED for request in sent]
    assert asked == [True, True, False, True, True, True]


def test_the_command_line(server: Any) -> None:
    done = invoke("merge", "intent")
    assert done.exit_code == 0
    assert done.stdout.strip() == server.admin.resident.digest
    assert "merged       intent, 1.0 MiB, by operator" in invoke("status").stdout
    assert invoke("merge", "--off").exit_code == 0
    assert "by operator" not in invoke("status").stdout
    assert invoke("merge").exit_code == 2
    assert invoke("merge", "intent", "--off").exit_code == 2
