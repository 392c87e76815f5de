"""The gate over a real socket: who gets in, who does not, and that nobody learns what is not theirs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from lorry.registry.v1 import access_service_pb2 as acs
from lorry.registry.v1 import access_service_pb2_grpc, registry_service_pb2_grpc, resources_pb2
from lorry.registry.v1 import blob_service_pb2 as bs
from lorry.registry.v1 import registry_service_pb2 as rs
from lorry_registry.access import authority
from lorry_registry.access.authority import Credentials, OpenAuthority, RegistryAuthority
from lorry_registry.access.entities import Quotas
from lorry_registry.catalogue import Catalogue
from lorry_registry.entities import AdapterKey, AliasTarget
from lorry_registry.errors import Unauthenticated
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import GrpcHost
from lorry_registry.rpc.rules import RULES, holds_reference, namespace_of, values_at
from lorry_registry.rpc.server import add_services, create_server

from .contract import REGISTRY_FILES, methods, request_class, response_class, text_fields
from .helpers import adapter_bytes, fingerprint, make_base, upload

Code = grpc.StatusCode
METHODS = methods(*REGISTRY_FILES)
THEIRS = AdapterKey("theirs", "secret")


@pytest.fixture
def shared(catalogue: Catalogue) -> Catalogue:
    """Two tenants: `mine` and `theirs`, each with an adapter, a version and an alias."""
    catalogue.put_base(make_base())
    for namespace, seed in (("mine", 1), ("theirs", 2)):
        key = AdapterKey(namespace, "secret")
        catalogue.create_adapter(key)
        catalogue.publish(key, upload(catalogue, adapter_bytes(seed=seed)))
        catalogue.set_alias(key, "production", [AliasTarget(1)])
    return catalogue


@pytest.fixture
async def host(shared: Catalogue) -> AsyncIterator[GrpcHost]:
    gate = Gate(RULES, RegistryAuthority(shared.access))
    host = create_server("127.0.0.1:0", lambda server: add_services(server, shared), gate=gate)
    await host.start()
    yield host
    await host.stop(0)


Caller = Callable[..., Any]


@pytest.fixture
async def channel(host: GrpcHost) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(host.address) as channel:
        yield channel


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


async def call(channel: grpc.aio.Channel, name: str, request: Any, token: str = "") -> Any:
    """Answers of any kind of RPC, as a list."""
    method = METHODS[name]
    shape = "unary" if not method.client_streaming else "stream"
    shape += "_unary" if not method.server_streaming else "_stream"
    stub = getattr(channel, shape)(
        name,
        request_serializer=request_class(method).SerializeToString,
        response_deserializer=response_class(method).FromString,
    )
    sent = iter([request]) if method.client_streaming else request
    answer = stub(sent, metadata=bearer(token), timeout=10)
    return [m async for m in answer] if method.server_streaming else [await answer]


async def outcome(
    channel: grpc.aio.Channel, name: str, request: Any, token: str = ""
) -> tuple[Any, ...]:
    """What the caller is told: the code, the reason and the message; or OK and the answer."""
    try:
        return ("OK", await call(channel, name, request, token))
    except grpc.aio.AioRpcError as error:
        failure = error
    status = rpc_status.from_call(failure)
    assert status is not None, (name, failure.code(), failure.details())
    info = ErrorInfo()
    assert status.details[0].Unpack(info), name
    return (failure.code(), info.reason, failure.details())


def token(shared: Catalogue, *grants: str) -> str:
    return shared.access.create_token(grants)[1]


# The table.


def test_every_rpc_has_its_rule_and_every_rule_its_rpc() -> None:
    assert set(RULES) == set(METHODS)


def test_every_name_in_a_request_is_judged() -> None:
    """A field that names an adapter, and that no rule looks at, would be a way around every right."""
    free = {
        # What is no name of a tenant's, or is judged by what it stands for.
        "adapter_id", "namespace_id", "display_name",
        "/lorry.registry.v1.RegistryService/CreateAdapter adapter.name",  # output only
        "/lorry.registry.v1.RegistryService/CreateVersion version.name",  # output only
        "/lorry.registry.v1.RegistryService/CreateEvaluation evaluation.name",  # output only
        "/lorry.registry.v1.RegistryService/CreateEvaluation evaluation.dataset.name",  # a data set's
        "/lorry.registry.v1.RegistryService/CreateBase base.name",  # bases are everybody's
        "/lorry.registry.v1.RegistryService/GetBase name",
        "/lorry.registry.v1.AccessService/CreateToken token.name",  # output only
        "/lorry.registry.v1.AccessService/GetToken name",  # tokens are judged by their grants
        "/lorry.registry.v1.AccessService/RevokeToken name",
        "/lorry.registry.v1.AccessService/CreateNamespace namespace.name",  # output only
    }  # fmt: skip
    for name, method in METHODS.items():
        rule = RULES[name]
        judged = {path for need in rule.needs for path in need.at}
        everywhere = any(need.everywhere for need in rule.needs)
        for path in text_fields(method.input_type):
            last = path.rpartition(".")[2]
            names = last in ("name", "parent", "source") or holds_reference(path)
            if names and not everywhere:
                if path.startswith(("version.lineage.", "adapter.labels")):
                    continue
                assert path in judged or {path, f"{name} {path}"} & free, (name, path)
        request = request_class(method)()
        for path in judged | {*rule.about}:
            values_at(request, path)  # raises where the contract has no such field


def test_a_reference_is_not_taken_for_a_resource_name() -> None:
    """`namespaces/x` as a reference is an adapter in the namespace `namespaces`: as a name, it was x's owner's."""
    assert namespace_of("namespaces/x", is_reference=True) == "namespaces"
    assert namespace_of("namespaces/x", is_reference=False) == "x"
    request = rs.ResolveReferenceRequest(reference="namespaces/mine")
    assert RULES["/lorry.registry.v1.RegistryService/ResolveReference"].namespaces(request) == (
        "namespaces",
    )


async def test_what_one_may_read_is_answered_whatever_the_field_is_called(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    """`first_reference` was taken for a resource name, and every comparison refused."""
    reader = token(shared, "read:mine")
    name = "/lorry.registry.v1.RegistryService/CompareVersions"
    request = rs.CompareVersionsRequest(
        first_reference="mine/secret", second_reference="mine/secret:1"
    )
    assert (await outcome(channel, name, request, reader))[0] == "OK"
    request.second_reference = "theirs/secret"
    assert (await outcome(channel, name, request, reader))[0] is Code.NOT_FOUND


# Who gets in.


async def test_who_does_not_say_who_they_are_gets_nothing(channel: grpc.aio.Channel) -> None:
    for name, method in METHODS.items():
        for shown, reason in (("", "TOKEN_MISSING"), ("lorry_x", "TOKEN_UNKNOWN")):
            told = await outcome(channel, name, request_class(method)(), shown)
            assert told[:2] == (Code.UNAUTHENTICATED, reason), name


async def test_health_and_reflection_need_no_token(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_roles_open_what_they_are_for(channel: grpc.aio.Channel, shared: Catalogue) -> None:
    registry = "/lorry.registry.v1.RegistryService/"
    look = (registry + "GetAdapter", rs.GetAdapterRequest(name="namespaces/mine/adapters/secret"))
    new = rs.CreateAdapterRequest(parent="namespaces/mine", adapter_id="new")
    publish = (registry + "CreateAdapter", new)
    alias = resources_pb2.Alias(
        name="namespaces/mine/adapters/secret/aliases/next",
        targets=[resources_pb2.AliasTarget(version=1)],
    )
    promote = (registry + "SetAlias", rs.SetAliasRequest(alias=alias))
    give = (
        "/lorry.registry.v1.AccessService/CreateToken",
        acs.CreateTokenRequest(token=acs.Token(grants=["read:mine"])),
    )
    for role, allowed in (
        ("infer", ()),
        ("read", (look,)),
        ("promote", (look, promote)),
        ("publish", (look, publish)),
        ("admin", (look, promote, give)),
    ):
        mine = token(shared, f"{role}:mine")
        for act in (look, publish, promote, give):
            if role == "admin" and act is publish:
                continue  # it is there by now
            told = await outcome(channel, *act, mine)
            if act in allowed:
                assert told[0] == "OK", (role, act, told)
            else:
                assert told[:2] == (Code.PERMISSION_DENIED, "ROLE_MISSING"), (role, act, told)


# Permission comes before existence.

NAMES = {
    "": "namespaces/{ns}/adapters/{id}",
    "CreateAdapter": "namespaces/{ns}",
    "ListAdapters": "namespaces/{ns}",
    "Watch": "namespaces/{ns}",
    "GetVersion": "namespaces/{ns}/adapters/{id}/versions/{n}",
    "SetAlias": "namespaces/{ns}/adapters/{id}/aliases/{alias}",
    "GetAlias": "namespaces/{ns}/adapters/{id}/aliases/{alias}",
    "ListAliasMoves": "namespaces/{ns}/adapters/{id}/aliases/{alias}",
    "RollbackAlias": "namespaces/{ns}/adapters/{id}/aliases/{alias}",
    "DeleteAlias": "namespaces/{ns}/adapters/{id}/aliases/{alias}",
    "GetNamespace": "namespaces/{ns}",
    "UpdateNamespace": "namespaces/{ns}",
    "DeleteNamespace": "namespaces/{ns}",
    "CreateNamespace": "{ns}",
    "ListAuditEvents": "namespaces/{ns}",
}
DIGESTS = {
    "FindMissingBlobs": "digests",
    "GetBlobWrite": "digest",
    "ReadBlob": "digest",
    "GetBlobDownload": "digest",
}


def named(name: str, **parts: str) -> Any:
    """The RPC's request about what these parts name, in every field that its rule looks at."""
    method = METHODS[name]
    request = request_class(method)()
    rule = RULES[name]
    shape = NAMES.get(method.name, NAMES[""])
    if "Aliases" not in method.name and "Alias" in method.name and method.name not in NAMES:
        shape = NAMES["SetAlias"]
    if "Version" in method.name and method.name not in (*NAMES, "CreateVersion", "ListVersions"):
        shape = NAMES["GetVersion"]
    paths = [path for need in rule.needs for path in need.at]
    paths += rule.about if any(need.everywhere for need in rule.needs) else ()
    for path in paths:
        *way, last = path.split(".")
        message = request
        for step in way:
            message = getattr(message, step)
            if not hasattr(message, "DESCRIPTOR"):
                message = message.add()
        form = "{ns}/{id}:{n}" if holds_reference(path) else shape
        setattr(message, last, form.format(**parts))
    return request


async def test_a_stranger_learns_nothing_from_any_rpc(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    """Whatever they ask about another's names, the answer is the one for a name that does not exist."""
    theirs = {"ns": "theirs", "id": "secret", "n": "1", "alias": "production"}
    others = (
        {**theirs, "ns": "nowhere"},
        {**theirs, "id": "nothing"},
        {**theirs, "n": "7"},
        {**theirs, "alias": "nothing"},
    )
    for role in ("read", "infer", "publish", "promote", "admin"):
        stranger = token(shared, f"{role}:mine")
        for name, rule in RULES.items():
            if not any(need.at or need.everywhere for need in rule.needs):
                continue
            told = []
            for parts in (theirs, *others):
                code, reason, message = await outcome(channel, name, named(name, **parts), stranger)
                assert code in (Code.NOT_FOUND, Code.PERMISSION_DENIED), (name, code, reason)
                for part in parts.values():
                    message = message.replace(part, "…")
                told.append((code, reason, message))
            assert len(set(told)) == 1, (role, name, told)
    assert shared.get_adapter(THEIRS).latest_version == 1


async def test_lists_of_everything_hold_what_may_be_seen(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    registry, access = "/lorry.registry.v1.RegistryService/", "/lorry.registry.v1.AccessService/"
    mine = token(shared, "admin:mine")
    (adapters,) = await call(
        channel, registry + "ListAdapters", rs.ListAdaptersRequest(parent="namespaces/-"), mine
    )
    assert [a.name for a in adapters.adapters] == ["namespaces/mine/adapters/secret"]
    (spaces,) = await call(channel, access + "ListNamespaces", acs.ListNamespacesRequest(), mine)
    assert [n.name for n in spaces.namespaces] == ["namespaces/mine"]
    (tokens,) = await call(channel, access + "ListTokens", acs.ListTokensRequest(), mine)
    assert [list(t.grants) for t in tokens.tokens] == [["admin:mine"]]
    token(shared, "read:theirs")
    (events,) = await call(
        channel, access + "ListAuditEvents", acs.ListAuditEventsRequest(parent="namespaces/-"), mine
    )
    assert not events.events


# What a token's life is worth.


async def test_a_revoked_token_is_refused_within_two_seconds(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    made, text = shared.access.create_token(["read:mine"])
    ask = ("/lorry.registry.v1.AccessService/GetCaller", acs.GetCallerRequest(), text)
    (caller,) = await call(channel, *ask)
    assert (caller.principal, list(caller.grants)) == (made.principal, ["read:mine"])
    shared._store.revoke_token(made.token_id)  # as somebody else would
    async with asyncio.timeout(10):
        while (await outcome(channel, *ask))[0] == "OK":  # noqa: ASYNC110 (it is the registry's clock)
            await asyncio.sleep(0.05)
    assert (await outcome(channel, *ask))[:2] == (Code.UNAUTHENTICATED, "TOKEN_REVOKED")
    assert authority.TRUST_SECONDS <= 1.0


async def test_a_stream_ends_with_the_token_that_opened_it(
    shared: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long download would otherwise go on for as long as it takes."""
    monkeypatch.setattr("lorry_registry.rpc.gate.TRUST_SECONDS", 0.0)
    monkeypatch.setattr(authority, "TRUST_SECONDS", 0.0)
    gate = Gate(RULES, RegistryAuthority(shared.access))
    made, text = shared.access.create_token(["read:mine"])
    pieces = iter(range(100))

    async def stream(request: Any, context: Any) -> AsyncIterator[bs.ReadBlobResponse]:
        for piece in pieces:
            yield bs.ReadBlobResponse(data=b"%d" % piece)
            if piece == 3:
                shared._store.revoke_token(made.token_id)  # as somebody else would

    class Context:
        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

        def invocation_metadata(self) -> Any:
            return bearer(text)

        def auth_context(self) -> Mapping[str, Any]:
            return {}

    name = "/lorry.registry.v1.BlobService/ReadBlob"
    guarded = gate._stream(name, RULES[name], stream)
    seen: list[bytes] = []

    async def read() -> None:
        async for message in guarded(bs.ReadBlobRequest(digest=fingerprint("0")), Context()):
            seen.append(message.data)  # noqa: PERF401 (kept, whatever comes after)

    with pytest.raises(Unauthenticated, match="revoked"):
        await read()
    assert seen == [b"0", b"1", b"2", b"3"]


# Rates and the log.


async def test_a_namespace_that_used_its_minute_is_told_when_to_come_back(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    shared.access.create_namespace("busy", quotas=Quotas(requests_per_minute=2))
    busy = token(shared, "read:busy", "read:mine")
    ask = ("/lorry.registry.v1.RegistryService/ListAdapters",)
    request = rs.ListAdaptersRequest(parent="namespaces/busy")
    assert [(await outcome(channel, *ask, request, busy))[0] for _ in range(2)] == ["OK", "OK"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, *ask, request, busy)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(caught.value)
    assert status is not None
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert info.reason == "RATE_EXCEEDED"
    assert 0 < retry.retry_delay.ToMilliseconds() <= 30_000
    elsewhere = rs.ListAdaptersRequest(parent="namespaces/mine")
    assert (await outcome(channel, *ask, elsewhere, busy))[0] == "OK"


async def test_what_is_done_and_what_is_refused_is_in_the_log(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    registry = "/lorry.registry.v1.RegistryService/"
    made, text = shared.access.create_token(["publish:mine"])
    new = rs.CreateAdapterRequest(parent="namespaces/mine", adapter_id="new")
    await call(channel, registry + "CreateAdapter", new, text)
    await outcome(channel, registry + "CreateAdapter", new, text)
    steal = rs.DeleteAdapterRequest(name=THEIRS.resource_name, force=True)
    await outcome(channel, registry + "DeleteAdapter", steal, text)
    await outcome(channel, registry + "DeleteAdapter", steal)
    look = rs.GetAdapterRequest(name="namespaces/mine/adapters/new")
    await call(channel, registry + "GetAdapter", look, text)
    events = shared.access.list_audit_events(None).items[::-1]
    assert [(e.principal, e.action.rpartition("/")[2], e.resource, e.outcome, e.reason) for e in events] == [
        (made.principal, "CreateAdapter", "namespaces/mine new", "OK", ""),
        (made.principal, "CreateAdapter", "namespaces/mine new", "ALREADY_EXISTS", "ADAPTER_EXISTS"),
        (made.principal, "DeleteAdapter", THEIRS.resource_name, "NOT_FOUND", "NAMESPACE_NOT_FOUND"),
        ("unknown", "DeleteAdapter", THEIRS.resource_name, "UNAUTHENTICATED", "TOKEN_MISSING"),
    ]  # fmt: skip
    assert all(e.peer.startswith("ipv4:127.0.0.1:") for e in events)


async def test_a_copy_is_in_the_log_of_where_it_goes(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    """It stood in the log of where it came from, whose administrators read there what others call their adapters."""
    made, text = shared.access.create_token(["publish:mine", "read:theirs"])
    copy = rs.CopyVersionRequest(reference=str(THEIRS), parent="namespaces/mine/adapters/secret")
    await call(channel, "/lorry.registry.v1.RegistryService/CopyVersion", copy, text)
    (event,) = shared.access.list_audit_events("mine").items
    assert (event.principal, event.outcome) == (made.principal, "OK")
    assert shared.access.list_audit_events("theirs").items == ()


async def test_a_flood_of_denials_does_not_fill_the_log(
    channel: grpc.aio.Channel, shared: Catalogue
) -> None:
    ask = ("/lorry.registry.v1.AccessService/GetCaller", acs.GetCallerRequest(), "lorry_wrong")
    for _ in range(100):
        assert (await outcome(channel, *ask))[0] is Code.UNAUTHENTICATED
    assert 60 <= len(shared.access.list_audit_events(None, page_size=1000).items) < 70


async def test_no_secret_is_ever_logged(
    channel: grpc.aio.Channel, shared: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    access = "/lorry.registry.v1.AccessService/"
    admin = token(shared, "admin:*")
    request = acs.CreateTokenRequest(token=acs.Token(grants=["read:mine"], display_name="new"))
    (made,) = await call(channel, access + "CreateToken", request, admin)
    wrong = made.text[:-6] + "wrong!"
    await outcome(channel, access + "GetCaller", acs.GetCallerRequest(), wrong)
    await outcome(
        channel, access + "GetToken", acs.GetTokenRequest(name=f"tokens/{made.text}"), admin
    )
    kept = caplog.text + repr(shared.access.list_audit_events(None).items)
    for secret in (admin, made.text, wrong):
        assert secret.rpartition("_")[2][:20] not in kept


async def test_where_nobody_is_asked_everybody_may(shared: Catalogue) -> None:
    open_door = OpenAuthority(shared.access)
    gate = Gate(RULES, open_door)
    host = create_server("127.0.0.1:0", lambda server: add_services(server, shared), gate=gate)
    await host.start()
    async with grpc.aio.insecure_channel(host.address) as channel:
        registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        await registry.DeleteAdapter(
            rs.DeleteAdapterRequest(name=THEIRS.resource_name, force=True),
            metadata=bearer("anything"),
        )
        access = access_service_pb2_grpc.AccessServiceStub(channel)
        caller = await access.GetCaller(acs.GetCallerRequest())
    assert caller.principal == "anonymous"
    assert (await open_door.identify(Credentials("x"))).principal == "anonymous"
    assert [e.principal for e in shared.access.list_audit_events(None).items] == ["anonymous"]
    await host.stop(0)
