"""A server that follows its registry: answers from memory that are never old, a kill switch, and what a cut line costs.

The registry is a real one, here and over a real socket; others change it through connections of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lorry.admin.v1 import admin_service_pb2
from lorry.inference.v1 import composition_pb2
from lorry.inference.v1 import inference_service_pb2 as pb
from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, AliasTarget, Base, Deprecation, File, LinearModule
from lorry_registry.errors import NotFound, Unavailable
from lorry_registry.rpc.host import GrpcHost, create_server
from lorry_registry.rpc.server import add_services
from lorry_registry.sql import event_log
from lorry_server.meanings import Meanings
from lorry_server.registries import Meaning, Published
from lorry_server.registries import following as following_module
from lorry_server.registries.following import Follower
from lorry_server.registries.local import LocalRegistry
from lorry_server.registries.positions import Positions
from lorry_server.registries.remote import RemoteRegistry

from .conftest import FINGERPRINT, explained

KEY = AdapterKey("default", "support")
SHAPES = {f"model.layers.{n}.self_attn.q_proj": (32, 32) for n in range(2)}
BASE = Base(
    FINGERPRINT, "small", "LlamaForCausalLM", "nf4",
    tuple(LinearModule(path, *shape) for path, shape in SHAPES.items()), 64, 128,
)  # fmt: skip


@dataclass
class Elsewhere:
    """A registry as others have it: its catalogue, and its server at an address that it keeps."""

    catalogue: Catalogue
    host: GrpcHost | None = None
    address: str = "127.0.0.1:0"
    digests: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """A process would open the home anew; so does this."""
        self.served = open_catalogue(self.home)
        self.host = create_server(self.address, lambda server: add_services(server, self.served))
        self.address = self.host.address
        await self.host.start()

    async def stop(self) -> None:
        if self.host is not None:
            self.served.end_watches()
            await self.host.stop(0)
            self.served.close()
            self.host = None

    def point(self, *shares: tuple[int, int] | int) -> None:
        pairs = [share if isinstance(share, tuple) else (share, 1) for share in shares]
        self.catalogue.set_alias(KEY, "production", [AliasTarget(n, weight=w) for n, w in pairs])


@pytest.fixture
async def elsewhere(tmp_path, make_adapter):
    """With an adapter that has three versions; `production` is the first."""
    home = tmp_path / "elsewhere"
    catalogue = open_catalogue(home)
    catalogue.put_base(BASE)
    catalogue.create_adapter(KEY)
    there = Elsewhere(catalogue)
    there.home = home
    for seed in range(3):
        files = []
        for path in sorted(make_adapter(SHAPES, rank=4, seed=seed).iterdir()):
            data = path.read_bytes()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            catalogue.blobs.append(digest, size_bytes=len(data), offset=0, data=data)
            catalogue.blobs.finish(digest, size_bytes=len(data))
            files.append(File(path.name, digest, len(data)))
        there.digests.append(catalogue.publish(KEY, files).digest)
    there.point(1)
    await there.start()
    yield there
    await there.stop()
    catalogue.close()


@pytest.fixture(params=["here", "over a socket"])
async def registry(request, elsewhere):
    if request.param == "here":
        mine = open_catalogue(elsewhere.home)
        local = LocalRegistry(mine)
        yield local
        local.close()
        mine.close()
        return
    remote = RemoteRegistry(elsewhere.address)
    await remote.ready()
    yield remote
    await remote.close()


@pytest.fixture
async def remote(elsewhere):
    there = RemoteRegistry(elsewhere.address)
    await there.ready()
    yield there
    await there.close()


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def request(adapter: str = "support", **options) -> pb.GenerateRequest:
    sampling = pb.SamplingParameters(max_tokens=options.pop("max_tokens", 2), ignore_eos=True)
    return pb.GenerateRequest(text="hello", adapter=adapter, sampling=sampling, **options)


async def acted(node, adapter: str = "support", **options) -> str:
    answer = await node.inference.GenerateUnary(request(adapter, **options))
    return answer.completion.adapter_digest


async def refused(node, adapter: str = "support") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.inference.GenerateUnary(request(adapter))
    return explained(caught.value)[:2]


async def health(node) -> int:
    stub = health_pb2_grpc.HealthStub(node.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service="registry"))).status


def counting(registry) -> list[str]:
    """The look-ups that a registry is asked for from now on."""
    asked: list[str] = []
    expand = registry.expand

    async def counted(reference: str):
        asked.append(reference)
        return await expand(reference)

    registry.expand = counted
    return asked


class TestMemory:
    async def test_a_request_needs_no_look_up_until_something_happens(
        self, start_node, registry, elsewhere
    ):
        asked = counting(registry)
        async with start_node(registry=registry) as node:
            await until(lambda: node.follower.connected)
            for _ in range(5):
                assert await acted(node) == elsewhere.digests[0]
            assert asked == ["support"]
            elsewhere.catalogue.create_adapter(AdapterKey("default", "unrelated"))
            await until(lambda: node.follower.position == elsewhere.catalogue.position())
            await acted(node)
            assert asked == ["support"]
            elsewhere.point(2)
            assert await acted(node) == elsewhere.digests[1]
            await until(lambda: node.follower.position == elsewhere.catalogue.position())
            assert await acted(node) == await acted(node) == elsewhere.digests[1]
            assert len(asked) <= 3

    async def test_the_next_request_after_a_move_gets_the_new_version(
        self, start_node, registry, elsewhere
    ):
        """Whoever has moved the alias, through any registry, with requests all the while: never an old answer."""
        async with start_node(registry=registry) as node:
            await until(lambda: node.follower.connected)
            over = False

            async def traffic() -> None:
                while not over:
                    await node.directory.resolve("support")

            others = [asyncio.create_task(traffic()) for _ in range(3)]
            for turn in range(24):
                number = turn % 3 + 1
                await asyncio.to_thread(elsewhere.point, number)
                resolved = await node.directory.resolve("support")
                assert resolved.digest == elsewhere.digests[number - 1]
            over = True
            await asyncio.gather(*others)

    async def test_what_is_deleted_is_gone_with_the_next_request(
        self, start_node, registry, elsewhere
    ):
        async with start_node(registry=registry) as node:
            await until(lambda: node.follower.connected)
            await acted(node)
            elsewhere.catalogue.delete_alias(KEY, "production")
            assert (
                await acted(node) == elsewhere.digests[2]
            )  # the newest, as a bare name means then
            elsewhere.catalogue.delete_adapter(KEY, force=True)
            assert await refused(node) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_DELETED")
            assert node.directory.references(elsewhere.digests[0]) == ()
            by_digest = f"support@{elsewhere.digests[0]}"
            assert (await refused(node, by_digest))[0] is grpc.StatusCode.NOT_FOUND

    async def test_a_deleted_version_stays_deleted_while_the_registry_is_away(
        self, start_node, remote, elsewhere
    ):
        async with start_node(registry=remote) as node:
            await until(lambda: node.follower.connected)
            by_digest = f"support@{elsewhere.digests[1]}"
            for name in ("support", "support:2", by_digest):
                await acted(node, name)
            elsewhere.catalogue.delete_version(KEY, 2)
            assert (await refused(node, "support:2"))[1] == "VERSION_DELETED"
            await until(lambda: node.follower.position == elsewhere.catalogue.position())
            await elsewhere.stop()
            await until(lambda: not node.follower.connected)
            assert await acted(node) == elsewhere.digests[0]
            for name in ("support:2", by_digest):
                assert (await refused(node, name))[1] == "REGISTRY_UNAVAILABLE"

    async def test_requests_of_one_moment_ask_once_how_far_the_events_go(
        self, start_node, remote, elsewhere
    ):
        async with start_node(registry=remote) as node:
            await until(lambda: node.follower.connected)
            await acted(node)
            asked = 0
            position = remote.position

            async def counted() -> int:
                nonlocal asked
                asked += 1
                return await position()

            remote.position = counted
            await asyncio.gather(*(node.directory.resolve("support") for _ in range(200)))
            assert asked <= 2


def version(number: int, key: AdapterKey = KEY) -> Meaning:
    return Meaning(((Published(key, number, f"sha256:{number}", "", "", 4, ()), 1),), "")


def test_a_look_up_that_an_event_overtook_is_not_remembered():
    """It was read before the event and arrives after it: nothing would ever say that it is old."""
    meanings = Meanings()
    before = meanings.moment(5)
    meanings.changed(KEY, 6)
    meanings.put("support", version(1), before)
    assert meanings.holding("support") is None
    assert meanings.last("support") == version(1)
    meanings.put("support", version(2), meanings.moment(6))
    assert meanings.holding("support") == version(2)
    meanings.all_changed()
    meanings.put("support", version(1), (0, 99))  # read before the gap, by the old count
    assert meanings.holding("support") is None


def test_memory_is_bounded_and_forgets_safely(monkeypatch):
    monkeypatch.setattr("lorry_server.meanings._MAX_REMEMBERED", 3)
    meanings = Meanings()
    keys = [AdapterKey("default", f"a{n}") for n in range(6)]
    for position, key in enumerate(keys, 10):
        meanings.put(str(key), version(1, key), meanings.moment(position))
        meanings.changed(key, position)
    assert [meanings.last(str(key)) is not None for key in keys] == [False] * 3 + [True] * 3
    # That the first adapters changed is forgotten; what was read before then is not believed all the same.
    meanings.put("a0", version(1, keys[0]), meanings.moment(9))
    assert meanings.holding("a0") is None
    meanings.put("a0", version(1, keys[0]), meanings.moment(15))
    assert meanings.holding("a0") is not None


async def test_a_position_is_never_older_than_the_question():
    asked, gates = 0, [asyncio.Event() for _ in range(3)]

    async def ask() -> int:
        nonlocal asked
        asked += 1
        number = asked
        await gates[number - 1].wait()
        return number

    positions = Positions(ask)
    first = asyncio.create_task(positions.now())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = [asyncio.create_task(positions.now()) for _ in range(5)]
    await asyncio.sleep(0)
    gates[0].set()
    assert await first == 1
    gates[1].set()
    assert [await one for one in late] == [2] * 5
    gates[2].set()
    assert await positions.now() == 3


class TestBlocked:
    async def test_a_block_ends_what_runs_refuses_what_comes_and_unloads(
        self, start_node, registry, elsewhere
    ):
        async with start_node(registry=registry, step_seconds=0.01) as node:
            await until(lambda: node.follower.connected)
            digest = elsewhere.digests[0]
            await acted(node)
            await node.admin.PinAdapter(
                admin_service_pb2.PinAdapterRequest(adapter="support", pinned=True)
            )
            running = node.inference.Generate(request(max_tokens=190))
            other = node.inference.Generate(request("support:2", max_tokens=190))
            first = await running.read()
            assert first.token_ids
            whole = asyncio.ensure_future(node.inference.GenerateUnary(request(max_tokens=190)))
            await until(lambda: node.engine.stats().running == 3)
            await asyncio.to_thread(elsewhere.catalogue.block, KEY, 1, "it leaks addresses")
            with suppress(grpc.aio.AioRpcError):
                while await running.read() is not grpc.aio.EOF:
                    pass
            assert await running.code() is grpc.StatusCode.FAILED_PRECONDITION
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await whole
            code, reason, about = explained(ended.value)
            assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_BLOCKED")
            assert about == {"version": "default/support:1", "why": "it leaks addresses"}
            for name in ("support", "support:1", f"support@{digest}"):
                assert await refused(node, name) == (code, reason)
            await until(lambda: digest not in {r.digest for r in node.engine.stats().residents})
            answers = [answer async for answer in other]
            assert answers[-1].completion.adapter_digest == elsewhere.digests[1]
            elsewhere.catalogue.unblock(KEY, 1)
            assert await acted(node) == digest

    async def test_a_blocked_canary_leaves_its_share_to_the_rest(
        self, start_node, registry, elsewhere
    ):
        elsewhere.point((1, 50), (2, 50))
        keys = [f"user-{n}" for n in range(20)]
        async with start_node(registry=registry) as node:
            await until(lambda: node.follower.connected)
            before = [await acted(node, sticky_key=key) for key in keys]
            assert set(before) == set(elsewhere.digests[:2])
            elsewhere.catalogue.block(KEY, 2, "worse")
            after = [await acted(node, sticky_key=key) for key in keys]
            assert set(after) == {elsewhere.digests[0]}
            elsewhere.catalogue.unblock(KEY, 2)
            assert [await acted(node, sticky_key=key) for key in keys] == before

    async def test_a_composition_of_it_is_ended_too(self, start_node, registry, elsewhere):
        terms = [
            composition_pb2.CompositionTerm(adapter=f"support:{n}", weight=0.5) for n in (1, 2)
        ]
        asked = pb.GenerateRequest(
            text="hello",
            composition=composition_pb2.Composition(terms=terms),
            sampling=pb.SamplingParameters(max_tokens=190, ignore_eos=True),
        )
        async with start_node(registry=registry, step_seconds=0.01) as node:
            node.engine._source.fetch = lambda digest: None  # nothing is brought for a composition
            await until(lambda: node.follower.connected)
            running = asyncio.ensure_future(node.inference.GenerateUnary(asked))
            await until(lambda: node.engine.stats().running == 1)
            (resident,) = node.engine.stats().residents
            await asyncio.to_thread(elsewhere.catalogue.block, KEY, 2, "worse")
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await running
            assert explained(ended.value)[1] == "VERSION_BLOCKED"
            await until(lambda: resident not in node.engine.stats().residents)

    async def test_it_stays_blocked_while_the_registry_is_away(self, start_node, remote, elsewhere):
        async with start_node(registry=remote) as node:
            await until(lambda: node.follower.connected)
            names = ("support", "support:1", f"support@{elsewhere.digests[0]}")
            for name in names:
                await acted(node, name)
            elsewhere.catalogue.block(KEY, 1, "leaks")
            await until(lambda: node.follower.position == elsewhere.catalogue.position())
            await elsewhere.stop()
            await until(lambda: not node.follower.connected)
            for name in names:
                assert (await refused(node, name))[1] == "VERSION_BLOCKED"


async def test_a_deprecation_is_said_in_answers_and_in_the_list(start_node, registry, elsewhere):
    async with start_node(registry=registry) as node:
        await until(lambda: node.follower.connected)
        assert not (await node.inference.GenerateUnary(request())).completion.warnings
        elsewhere.catalogue.deprecate(KEY, 1, Deprecation("it is old", "default/support:2"))
        told = "default/support:1 is deprecated: it is old. Use default/support:2."
        answer = await node.inference.GenerateUnary(request())
        assert list(answer.completion.warnings) == [told]
        _, listed = (await node.inference.ListModels(pb.ListModelsRequest())).models
        assert list(listed.warnings) == [told]
        assert not (await node.inference.GenerateUnary(request("support:2"))).completion.warnings


class TestCutOff:
    async def test_it_serves_what_it_knows_says_so_and_catches_up(
        self, start_node, remote, elsewhere
    ):
        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        async with start_node(registry=remote) as node:
            await until(lambda: node.follower.connected)
            assert await acted(node) == elsewhere.digests[0]
            assert await health(node) == serving
            assert node.sample("lorry_registry_connected") == 1
            await elsewhere.stop()
            await until(lambda: not node.follower.connected)
            assert await acted(node) == elsewhere.digests[0]
            assert node.sample("lorry_registry_connected") == 0
            silence = node.sample("lorry_registry_silence_seconds")
            status = await node.admin.GetStatus(admin_service_pb2.GetStatusRequest())
            assert status.registry.address == elsewhere.address
            assert not status.registry.connected
            assert status.registry.silence.ToNanoseconds() / 1e9 >= silence > 0
            assert await health(node) == not_serving
            overall = health_pb2.HealthCheckRequest()
            stub = health_pb2_grpc.HealthStub(node.channel)
            assert (await stub.Check(overall)).status == serving
            elsewhere.point(2)  # through another registry on the same database
            assert await acted(node) == elsewhere.digests[0]
            await elsewhere.start()
            await until(lambda: node.follower.connected)
            assert await acted(node) == elsewhere.digests[1]
            assert await health(node) == serving
            assert node.sample("lorry_registry_connected") == 1
            assert node.sample("lorry_registry_position") == elsewhere.catalogue.position()
            assert node.sample("lorry_registry_events_total") == 1

    async def test_a_block_that_it_did_not_hear_of_takes_effect_when_it_is_back(
        self, start_node, remote, elsewhere, monkeypatch
    ):
        """Also where so much has happened that the events of then are kept no longer."""
        monkeypatch.setattr(event_log, "_DROP_EVERY", 1)
        monkeypatch.setattr(elsewhere.catalogue._store, "_events_kept", 2)
        async with start_node(registry=remote, step_seconds=0.02) as node:
            await until(lambda: node.follower.connected)
            await acted(node)  # its files are here then
            running = asyncio.ensure_future(node.inference.GenerateUnary(request(max_tokens=189)))
            await until(lambda: node.engine.stats().running == 1)
            await elsewhere.stop()
            await until(lambda: not node.follower.connected)
            elsewhere.catalogue.block(KEY, 1, "leaks")
            for number in (2, 3, 2):
                elsewhere.point(number)
            await elsewhere.start()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await running
            assert explained(ended.value)[1] == "VERSION_BLOCKED"
            assert await acted(node) == elsewhere.digests[1]

    async def test_a_line_that_says_nothing_is_taken_for_dead(self, monkeypatch):
        monkeypatch.setattr(following_module, "_SILENCE_SECONDS", 0.05)

        class Silent:
            name = "silent"
            watched = 0

            async def watch(self, resume_token, heartbeat_seconds):
                self.watched += 1
                await asyncio.sleep(100)
                yield

        registry = Silent()
        follower = Follower(registry)
        following = asyncio.create_task(follower.run())
        await until(lambda: registry.watched >= 2)
        assert not follower.connected
        assert follower.silence_seconds > 0
        following.cancel()
        await asyncio.wait([following])


async def test_a_listener_that_fails_costs_a_beginning_anew_and_no_more(elsewhere, remote):
    """A watch that died of one event would have let every later block go unheard."""
    follower = Follower(remote)
    heard, gaps = [], []

    def fail_once(events) -> None:
        heard.extend(events)
        if len(heard) == 1:
            raise RuntimeError("a bug")

    follower.on_events, follower.on_gap = fail_once, lambda: gaps.append(1)
    following = asyncio.create_task(follower.run())
    await until(lambda: follower.connected)
    elsewhere.point(2)
    await until(lambda: len(gaps) == 2 and follower.connected)
    elsewhere.point(3)
    await until(lambda: len(heard) == 2)
    following.cancel()
    await asyncio.wait([following])


async def test_errors_of_the_registry_are_the_registrys(elsewhere, remote):
    with pytest.raises(NotFound):
        await remote.expand("nobody")
    assert await remote.position() == elsewhere.catalogue.position()
    await elsewhere.stop()
    with pytest.raises(Unavailable):
        await remote.position()
    with pytest.raises(Unavailable):
        async for _ in remote.watch("", 1.0):
            pass
