"""Who may use a server: its own table of rules, and callers whom a registry elsewhere knows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from prometheus_client import CollectorRegistry

from lorry.admin.v1 import admin_service_pb2 as admin
from lorry.inference.v1 import inference_service_pb2 as inference
from lorry.registry.v1 import access_service_pb2
from lorry_registry.access.authority import Credentials
from lorry_registry.access.entities import Caller, Quotas
from lorry_registry.access.rights import Rights, parse_grants
from lorry_registry.access.settings import AccessSettings
from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.errors import FailedPrecondition, Unauthenticated, Unavailable
from lorry_registry.rpc.gate import Gate
from lorry_registry.rpc.host import create_server
from lorry_registry.rpc.rules import RULES
from lorry_registry.rpc.server import add_services, authority_of
from lorry_registry.security import Auth, Security
from lorry_server.access import SERVER_RULES
from lorry_server.app import _check_clear_text, _metrics
from lorry_server.config import RegistryLogin, ServeConfig
from lorry_server.registries.authority import AuthorityElsewhere, read_caller
from lorry_server.registries.remote import RemoteRegistry, channel_credentials
from tests.registry.contract import (
    REGISTRY_FILES,
    SERVER_FILES,
    methods,
    request_class,
    text_fields,
)
from tests.registry.helpers import make_base
from tests.server.conftest import explained

METHODS = methods(*SERVER_FILES)


def test_every_rpc_has_its_rule_and_every_rule_its_rpc():
    assert set(SERVER_RULES) == set(METHODS) | set(methods(*REGISTRY_FILES))


def test_every_adapter_that_a_request_names_is_judged():
    """One that no rule looks at would be served to whoever asks: a composition's terms, for example."""
    for name, method in METHODS.items():
        rule = SERVER_RULES[name]
        if any(need.everywhere for need in rule.needs):
            continue
        judged = {path for need in rule.needs for path in need.at}
        named = {
            path
            for path in text_fields(method.input_type)
            if path.rpartition(".")[2] in ("adapter", "reference", "parent")
        }
        assert named == judged, name


@pytest.mark.parametrize("name", sorted(METHODS))
def test_an_adapter_is_used_by_whoever_may_infer_in_its_namespace(name):
    rule = SERVER_RULES[name]
    request = request_class(METHODS[name])()
    if any(need.everywhere for need in rule.needs):
        with pytest.raises(Exception, match="over all namespaces"):
            rule.check(Rights(parse_grants(["admin:a", "infer:*"])), request)
        return
    if "adapter" not in {path for need in rule.needs for path in need.at}:
        return
    infer = Rights(parse_grants(["infer:a"]))
    for adapter in ("a/x", "a/x@production", "a/x:3", f"a/x@sha256:{'0' * 64}", ""):
        request.adapter = adapter
        rule.check(infer, request)
        with pytest.raises(Exception, match="role infer"):
            rule.check(Rights(parse_grants(["read:a"])), request)
    for adapter in ("b/x", "x", f"b/x@sha256:{'0' * 64}"):
        request.adapter = adapter
        with pytest.raises(Exception, match="no namespace"):
            rule.check(infer, request)
    request.composition.terms.add(adapter="a/x")
    rule.check(infer, request)
    request.composition.terms.add(adapter="b/x")
    with pytest.raises(Exception, match="no namespace"):
        rule.check(infer, request)


class Elsewhere:
    """A registry that knows tokens, counts the questions, and may be away."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False
        self.known = {"good": Caller("token:1", Rights(parse_grants(["infer:a"])))}

    async def caller_of(self, token: str) -> Caller:
        self.asked += 1
        if self.away:
            raise Unavailable("away", reason="REGISTRY_UNAVAILABLE")
        if token not in self.known:
            raise Unauthenticated("who?", reason="TOKEN_UNKNOWN")
        return self.known[token]

    async def quotas_of(self, namespace: str) -> Quotas:
        if self.away:
            raise Unavailable("away", reason="REGISTRY_UNAVAILABLE")
        return Quotas(requests_per_minute=7)


@pytest.fixture
def clock():
    """Seconds that pass when the test says so."""
    return [1000.0]


@pytest.fixture
def elsewhere():
    return Elsewhere()


def authority(elsewhere, clock) -> AuthorityElsewhere:
    made = AuthorityElsewhere(
        elsewhere.caller_of,
        elsewhere.quotas_of,
        AccessSettings({"client.example": Rights(parse_grants(["infer:c"]))}),
    )
    made._clock = made._callers._clock = made._quotas._known._clock = lambda: clock[0]
    return made


async def test_a_caller_is_asked_about_once_a_second(elsewhere, clock):
    judge = authority(elsewhere, clock)
    for _ in range(5):
        assert (await judge.identify(Credentials("good"))).principal == "token:1"
    assert elsewhere.asked == 1
    clock[0] += 1.1
    del elsewhere.known["good"]
    with pytest.raises(Unauthenticated):
        await judge.identify(Credentials("good"))


async def test_a_registry_that_is_away_lets_nobody_new_in(elsewhere, clock):
    judge = authority(elsewhere, clock)
    await judge.identify(Credentials("good"))
    elsewhere.away = True
    clock[0] += 299
    assert (await judge.identify(Credentials("good"))).principal == "token:1"
    with pytest.raises(Unavailable):
        await judge.identify(Credentials("other"))
    clock[0] += 2  # known, but for longer than five minutes nobody has said so
    with pytest.raises(Unavailable):
        await judge.identify(Credentials("good"))


async def test_a_registry_that_hangs_holds_up_nobody_who_is_known(elsewhere, clock, monkeypatch):
    """Each request used to wait for its own time-out, every second anew."""
    monkeypatch.setattr("lorry_server.registries.authority._PATIENCE_SECONDS", 0.01)
    judge = authority(elsewhere, clock)
    await judge.identify(Credentials("good"))
    await judge.quotas("a")
    hangs = asyncio.Event()

    async def hang(_):
        elsewhere.asked += 1
        await hangs.wait()

    judge._caller_of = judge._quotas._look_up = hang
    clock[0] += 3
    for _ in range(5):
        assert (await judge.identify(Credentials("good"))).principal == "token:1"
        assert (await judge.quotas("a")).requests_per_minute == 7
        await asyncio.sleep(0)
    assert elsewhere.asked == 3  # once before, and once for each since
    clock[0] += 2.1
    await judge.identify(Credentials("good"))
    assert elsewhere.asked == 4  # now and then, somebody looks whether it is back
    hangs.set()


async def test_an_expired_token_is_not_served_while_the_registry_is_away(elsewhere, clock):
    soon = datetime.now(UTC) + timedelta(milliseconds=20)
    elsewhere.known["brief"] = Caller("token:2", Rights(parse_grants(["infer:a"]), soon))
    judge = authority(elsewhere, clock)
    await judge.identify(Credentials("brief"))
    elsewhere.away = True
    await asyncio.sleep(0.03)
    with pytest.raises(Unavailable):
        await judge.identify(Credentials("brief"))


async def test_certificates_are_judged_by_the_servers_own_file(elsewhere, clock):
    judge = authority(elsewhere, clock)
    known = await judge.identify(Credentials(certificate_names=("x", "client.example")))
    assert known.principal == "certificate:client.example"
    for names, reason in (((), "TOKEN_MISSING"), (("x",), "CERTIFICATE_UNKNOWN")):
        with pytest.raises(Unauthenticated) as caught:
            await judge.identify(Credentials(certificate_names=names))
        assert caught.value.reason == reason
    assert elsewhere.asked == 0


async def test_quotas_hold_on_while_the_registry_is_away(elsewhere, clock):
    judge = authority(elsewhere, clock)
    assert (await judge.quotas("a")).requests_per_minute == 7
    elsewhere.away = True
    clock[0] += 100
    assert (await judge.quotas("a")).requests_per_minute == 7
    assert await judge.quotas("b") == Quotas()


def test_a_registry_that_asks_nobody_vouches_for_nobody():
    """It would call any token anonymous, with every right."""
    with pytest.raises(Unauthenticated) as caught:
        read_caller(access_service_pb2.Caller(principal="anonymous", grants=["admin:*"]))
    assert caught.value.reason == "REGISTRY_IS_OPEN"


@pytest.fixture
def catalogue(tmp_path):
    opened = open_catalogue(tmp_path / "registry")
    yield opened
    opened.close()


async def start_registry(catalogue: Catalogue):
    security = Security(Auth.REQUIRED)
    host = create_server(
        "127.0.0.1:0",
        lambda server: add_services(server, catalogue),
        gate=Gate(RULES, authority_of(catalogue, security, "127.0.0.1:0")),
        security=security,
    )
    await host.start()
    return host


async def test_a_server_shows_its_own_token_and_asks_about_its_callers(catalogue):
    _, servers = catalogue.access.create_token(["read:*"])
    made, callers = catalogue.access.create_token(["infer:a"])
    host = await start_registry(catalogue)
    remote = RemoteRegistry(host.address, token=servers)
    try:
        page = await remote.adapters_for(
            "sha256:" + "a" * 64, namespace=None, limit=5, page_token=""
        )
        assert page.keys == ()
        caller = await remote.caller_of(callers)
        assert (caller.principal, caller.rights.grants) == (made.principal, made.grants)
        with pytest.raises(Unauthenticated):
            await remote.caller_of("lorry_nobody")
        catalogue.access.create_namespace("a", quotas=Quotas(tokens_per_minute=9))
        assert (await remote.quotas_of("a")).tokens_per_minute == 9
        # It may not announce a base, and needs not where the base is known.
        with pytest.raises(Exception, match="no base"):
            await remote.create_base(make_base())
        catalogue.put_base(make_base())
        await remote.create_base(make_base())
    finally:
        await remote.close()
        await host.stop(0)


def test_the_registrys_token_comes_from_a_file_that_nobody_else_reads(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o644)
    with pytest.raises(FailedPrecondition, match="chmod 600"):
        RegistryLogin(file).token()
    file.chmod(0o600)
    assert RegistryLogin(file).token() == "secret"
    monkeypatch.setenv("LORRY_REGISTRY_TOKEN", "other")
    assert RegistryLogin().token() == "other"
    assert channel_credentials(RegistryLogin()) is None
    assert "secret" not in repr(RegistryLogin(file))


@pytest.mark.parametrize(
    ("given", "token", "clear"),
    [
        ({}, "", True),
        ({}, "secret", False),
        ({"security": Security(auth=Auth.REQUIRED)}, "", False),
        ({"security": Security(auth=Auth.REQUIRED, insecure=True)}, "secret", True),
        ({"security": Security(auth=Auth.REQUIRED), "registry": "127.0.0.1:7071"}, "secret", True),
    ],
)
def test_no_token_goes_to_a_registry_in_clear_text_unless_told(given, token, clear):
    """A server sent its own token, and those of all its callers, over a plain channel to any machine."""
    config = ServeConfig(**{"registry": "registry.example:7071"} | given)
    if clear:
        _check_clear_text(config, config.registry, token)
        return
    with pytest.raises(FailedPrecondition, match="clear text") as caught:
        _check_clear_text(config, config.registry, token)
    assert caught.value.reason == "TOKEN_IN_CLEAR_TEXT"


# Over a socket, in front of the services.


def bearer(token: str):
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
async def guarded(start_node, elsewhere):
    """A server that two tenants and an operator use; each has an adapter, and both are in slots."""
    for name, grants in (
        ("mine", ["infer:mine"]),
        ("theirs", ["infer:theirs"]),
        ("operator", ["admin:*"]),
    ):
        elsewhere.known[name] = Caller(f"token:{name}", Rights(parse_grants(grants)))
    judge = AuthorityElsewhere(elsewhere.caller_of, lambda name: elsewhere.quotas_of(name))
    gate = Gate(SERVER_RULES, judge)
    async with start_node(gate=gate) as node:
        for name in ("mine/a", "theirs/b"):
            node.registry.publish(name)
            await node.admin.LoadAdapter(
                admin.LoadAdapterRequest(adapter=name), metadata=bearer("operator")
            )
        yield node


async def told(call):
    try:
        return "OK", await call
    except grpc.aio.AioRpcError as error:
        return explained(error)[:2]


def test_metrics_are_not_for_everybody(tmp_path):
    """They name adapters: other machines read them with a certificate only."""
    for security in (Security(), Security(Auth.REQUIRED)):
        config = ServeConfig(home=tmp_path, metrics="0.0.0.0:0", security=security)
        with pytest.raises(FailedPrecondition) as caught:
            _metrics(config, CollectorRegistry())
        assert caught.value.reason == "INSECURE_ADDRESS"
    config = ServeConfig(home=tmp_path, metrics="0.0.0.0:0", security=Security(insecure=True))
    endpoint = _metrics(config, CollectorRegistry())
    assert endpoint is not None
    endpoint.close()
    assert _metrics(ServeConfig(home=tmp_path, metrics=""), CollectorRegistry()) is None


async def test_who_may_infer_is_asked_for_each_call_cached_residents_included(guarded):
    def ask(adapter, token):
        request = inference.GenerateRequest(text="hi", adapter=adapter)
        return told(guarded.inference.GenerateUnary(request, metadata=bearer(token), timeout=20))

    digest = guarded.registry.versions["theirs/b"][0].digest
    assert (await ask("theirs/b", "theirs"))[0] == "OK"
    assert (await ask("", "mine"))[0] == "OK"
    for adapter in ("theirs/b", "theirs/b:1", f"theirs/b@{digest}", "theirs/nothing", "nowhere/x"):
        assert await ask(adapter, "mine") == (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND")
    # The digest under a name of one's own is not that name's.
    assert (await ask(f"mine/a@{digest}", "mine"))[0] is grpc.StatusCode.NOT_FOUND
    guarded.registry.away = True
    assert (await ask(f"theirs/b@{digest}", "theirs"))[0] == "OK"
    for adapter in (f"theirs/b@{digest}", f"mine/a@{digest}"):
        assert (await ask(adapter, "mine"))[0] in (
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.UNAVAILABLE,
        )


async def test_lists_show_what_the_caller_may_use(guarded, elsewhere):
    answer = await guarded.inference.ListModels(
        inference.ListModelsRequest(), metadata=bearer("mine")
    )
    assert [model.reference for model in answer.models] == ["", "mine/a"]
    # Page after page, no token tells of an adapter that is not the caller's.
    elsewhere.known["both"] = Caller("token:b", Rights(parse_grants(["infer:mine", "infer:zoo"])))
    for name in ("mine/b", "zoo/a"):
        guarded.registry.publish(name)
    seen, page_token = [], ""
    while True:
        page = await guarded.inference.ListModels(
            inference.ListModelsRequest(page_size=1, page_token=page_token), metadata=bearer("both")
        )
        seen += [model.reference for model in page.models]
        page_token = page.next_page_token
        if not page_token:
            break
        assert "theirs" not in page_token
    assert seen == ["", "mine/a", "mine/b", "zoo/a"]
    for token, seen in (("mine", [["mine/a:1"]]), ("operator", [["mine/a:1"], ["theirs/b:1"]])):
        residents = await guarded.admin.ListResidents(
            admin.ListResidentsRequest(), metadata=bearer(token)
        )
        assert [list(one.references) for one in residents.residents] == seen


def naming(method, adapter: str):
    """Requests that name an adapter in each of the ways that the call has."""
    fields = {path for path in text_fields(method.input_type) if path.endswith("adapter")}
    for path in sorted(fields):
        request = request_class(method)()
        if path == "adapter":
            request.adapter = adapter
        else:
            request.composition.terms.add(adapter="mine/a")
            request.composition.terms.add(adapter=adapter)
        yield path, request


async def ask(channel, name, method, request, metadata) -> None:
    """Any RPC, for what it is refused with."""
    data = request.SerializeToString()
    if not method.server_streaming:
        await channel.unary_unary(name)(data, metadata=metadata, timeout=10)
        return
    async for _ in channel.unary_stream(name)(data, metadata=metadata, timeout=10):
        pass


async def test_a_stranger_learns_nothing_from_any_rpc(guarded, elsewhere):
    """Whatever they ask about another's names, the answer is the one for a name that does not exist."""
    digest = guarded.registry.versions["theirs/b"][0].digest
    for role in ("read", "infer", "publish", "promote", "admin"):
        elsewhere.known[role] = Caller(f"token:{role}", Rights(parse_grants([f"{role}:mine"])))
        for name, method in METHODS.items():
            names = ("theirs/b", "theirs/nothing", "nowhere/b", "theirs/b:7", f"theirs/b@{digest}")
            answers = {}
            for adapter in names:
                for path, request in naming(method, adapter):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await ask(guarded.channel, name, method, request, bearer(role))
                    code, reason, _ = explained(caught.value)
                    said = caught.value.details().replace("nowhere", "theirs")
                    answers.setdefault(path, set()).add((code, reason, said))
            assert all(len(told) == 1 for told in answers.values()), (role, name, answers)


async def test_slots_are_an_operators(guarded):
    for token in ("mine", "theirs"):
        for adapter in ("mine/a", "theirs/b", "theirs/nothing"):
            request = admin.PinAdapterRequest(adapter=adapter, pinned=True)
            code, reason = await told(guarded.admin.PinAdapter(request, metadata=bearer(token)))
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")


async def test_a_namespace_that_spent_its_tokens_is_told_when_to_come_back(guarded, elsewhere):
    async def quotas_of(namespace):
        return Quotas(tokens_per_minute=30 if namespace == "mine" else 0)

    elsewhere.quotas_of = quotas_of
    request = inference.GenerateRequest(tokens=inference.TokenPrompt(token_ids=range(10)))
    request.adapter = "mine/a"
    request.sampling.max_tokens = 25
    request.sampling.ignore_eos = True

    async def stream():
        call = guarded.inference.Generate(request, metadata=bearer("mine"), timeout=20)
        return sum([len(message.token_ids) async for message in call])

    assert (
        await stream() == 25
    )  # more than there was, with the prompt; what it costs is known afterwards
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await guarded.inference.GenerateUnary(request, metadata=bearer("mine"), timeout=20)
    code, reason, metadata = explained(caught.value)
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_EXCEEDED")
    assert metadata["quota"] == "tokens_per_minute"
    assert 0 < float(metadata["retry_after_seconds"]) <= 15
    request.adapter = "theirs/b"
    await guarded.inference.GenerateUnary(request, metadata=bearer("theirs"), timeout=20)
