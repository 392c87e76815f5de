"""TLS and mutual TLS on a real socket, with the client that users have."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lorry_client import AsyncClient, Login, PermissionDenied, Unauthenticated, Unavailable
from lorry_registry.catalogue import Catalogue
from lorry_registry.errors import FailedPrecondition
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import GrpcHost, create_server
from lorry_registry.rpc.rules import RULES
from lorry_registry.rpc.server import add_services, authority_of
from lorry_registry.security import Auth, Security

from .certificates import Authority

Start = Callable[[Security], Any]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def start(stocked: Catalogue, tmp_path: Path) -> Start:
    @asynccontextmanager
    async def started(security: Security) -> AsyncIterator[GrpcHost]:
        gate = Gate(RULES, authority_of(stocked, security, "127.0.0.1:0"))
        host = create_server(
            "127.0.0.1:0", lambda s: add_services(s, stocked), gate=gate, security=security
        )
        await host.start()
        yield host
        await host.stop(0)

    return started


async def test_a_channel_is_only_as_good_as_the_authority_that_is_believed(
    start: Start, ours: Authority, tmp_path: Path
) -> None:
    server = ours.issue("server")
    theirs = Authority(tmp_path / "theirs")
    async with start(Security(tls_cert=server.cert, tls_key=server.key)) as host:
        async with AsyncClient(host.address, login=Login(tls_ca=ours.cert)) as client:
            assert (await client.access.caller()).principal == "anonymous"
        for login in (Login(), Login(tls_ca=theirs.cert)):
            async with AsyncClient(host.address, login=login) as client:
                with pytest.raises(Unavailable):
                    await client.access.caller(timeout=5)


async def test_a_client_certificate_is_somebody(
    start: Start, ours: Authority, tmp_path: Path, stocked: Catalogue
) -> None:
    server, unnamed = ours.issue("server"), ours.issue("unnamed")
    trainer = ours.issue("trainer", uri="spiffe://example/trainer")
    stranger = Authority(tmp_path / "theirs").issue("trainer", uri="spiffe://example/trainer")
    access = tmp_path / "access.toml"
    access.write_text(
        '[[certificates]]\nname = "spiffe://example/trainer"\ngrants = ["publish:default"]\n'
    )
    security = Security(Auth.REQUIRED, access, server.cert, server.key, ours.cert)
    _, token = stocked.access.create_token(["read:other"])

    def client_of(pem: Any, **more: Any) -> AsyncClient:
        shown = {} if pem is None else {"tls_cert": pem.cert, "tls_key": pem.key}
        return AsyncClient(host.address, login=Login(tls_ca=ours.cert, **shown, **more))

    async with start(security) as host:
        async with client_of(trainer) as client:
            caller = await client.access.caller()
            assert caller.principal == "certificate:spiffe://example/trainer"
            assert (await client.adapters.get("support")).name == "default/support"
            with pytest.raises(PermissionDenied):
                await client.access.tokens()
        async with client_of(unnamed) as client:
            with pytest.raises(Unauthenticated) as caught:
                await client.access.caller()
            assert caught.value.reason == "CERTIFICATE_UNKNOWN"
        async with client_of(
            unnamed, token=token
        ) as client:  # a token that comes with it goes first
            assert (await client.access.caller()).grants == ("read:other",)
        for nobody in (None, stranger):
            async with client_of(nobody) as client:
                with pytest.raises(Unavailable):
                    await client.access.caller(timeout=5)


async def test_certificates_are_renewed_without_a_restart(
    start: Start, ours: Authority, tmp_path: Path
) -> None:
    server = ours.issue("server")
    later = Authority(tmp_path / "later")
    renewed = later.issue("server")

    async def answers(authority: Authority) -> bool:
        async with AsyncClient(host.address, login=Login(tls_ca=authority.cert)) as client:
            try:
                await client.access.caller(timeout=5)
            except Unavailable:
                return False
        return True

    async with start(Security(tls_cert=server.cert, tls_key=server.key)) as host:
        assert (await answers(ours), await answers(later)) == (True, False)
        server.cert.write_text("half")  # whoever renews them is not done yet
        assert await answers(ours)
        server.key.write_bytes(renewed.key.read_bytes())
        server.cert.write_bytes(renewed.cert.read_bytes())
        assert (await answers(ours), await answers(later)) == (False, True)


async def test_files_that_cannot_be_used_are_named_at_the_start(
    stocked: Catalogue, ours: Authority, tmp_path: Path
) -> None:
    server = ours.issue("server")
    (tmp_path / "empty.pem").write_text("nothing")
    for cert, key in ((tmp_path / "no.pem", server.key), (server.cert, tmp_path / "empty.pem")):
        with pytest.raises(FailedPrecondition) as caught:
            create_server(
                "127.0.0.1:0",
                lambda s: add_services(s, stocked),
                security=Security(tls_cert=cert, tls_key=key),
            )
        assert caught.value.reason == "TLS_FILE_UNREADABLE"


async def test_an_address_that_others_reach_needs_both(stocked: Catalogue, ours: Authority) -> None:
    server = ours.issue("server")

    def make(security: Security) -> GrpcHost:
        return create_server("0.0.0.0:0", lambda s: add_services(s, stocked), security=security)

    for lacking in (
        Security(),
        Security(Auth.REQUIRED),
        Security(Auth.OFF, None, server.cert, server.key),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            make(lacking)
        assert caught.value.reason == "INSECURE_ADDRESS"
    for enough in (Security(insecure=True), Security(tls_cert=server.cert, tls_key=server.key)):
        host = make(enough)
        await host.stop(0)
        await asyncio.sleep(0)
