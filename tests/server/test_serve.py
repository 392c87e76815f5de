"""`lorry serve` as a process, with the real engine on the shipped base: from the first line it prints to the last."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer import Context, Typer
from typer.testing import CliRunner

from lorry.admin.v1 import admin_service_pb2
from lorry.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from lorry.inference.v1 import inference_service_pb2 as pb
from lorry.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from lorry.registry.v1 import blob_service_pb2, registry_service_pb2, resources_pb2
from lorry.registry.v1.blob_service_pb2_grpc import BlobServiceStub
from lorry.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from lorry_client import Client
from lorry_client.cli.main import Root, build_app
from lorry_client.cli.session import Session
from lorry_server.cli import register

COMMAND = """
import typer
from lorry_client.cli.main import Root
from lorry_server.cli import register
app = typer.Typer(cls=Root, pretty_exceptions_enable=False)
app.callback()(lambda: None)
register(app)
app()
"""
SERVICES = (
    "",
    "lorry.inference.v1.InferenceService",
    "lorry.admin.v1.AdminService",
    "lorry.registry.v1.RegistryService",
    "lorry.registry.v1.BlobService",
)


@dataclass
class Served:
    """A running `lorry serve`."""

    process: subprocess.Popen
    home: Path
    address: str
    metrics_url: str
    lines: list[str]
    channel: grpc.Channel

    @property
    def inference(self):
        return InferenceServiceStub(self.channel)

    @property
    def admin(self):
        return AdminServiceStub(self.channel)

    @property
    def registry(self):
        return RegistryServiceStub(self.channel)

    def generate(self, text: str, **fields) -> pb.GenerateResponse:
        return self.inference.GenerateUnary(request(text, **fields), timeout=60)

    def publish(self, name: str, folder: Path) -> resources_pb2.Version:
        """What `lorry push` does."""
        files = []
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            pieces = [
                blob_service_pb2.WriteBlobRequest(
                    digest=digest, size_bytes=len(data), write_offset=at, data=data[at : at + (1 << 19)],
                    finish_write=at + (1 << 19) >= len(data),
                )
                for at in range(0, len(data), 1 << 19)
            ]  # fmt: skip
            assert BlobServiceStub(self.channel).WriteBlob(iter(pieces)).complete
            files.append(resources_pb2.File(path=path.name, digest=digest, size_bytes=len(data)))
        parent = "namespaces/default"
        with suppress(grpc.RpcError):  # it exists, where this is not its first version
            self.registry.CreateAdapter(
                registry_service_pb2.CreateAdapterRequest(parent=parent, adapter_id=name)
            )
        return self.registry.CreateVersion(
            registry_service_pb2.CreateVersionRequest(
                parent=f"{parent}/adapters/{name}", version=resources_pb2.Version(files=files)
            )
        )

    def point(self, name: str, alias: str, version: int | dict[int, int]) -> None:
        """At a version, or at several with their weights."""
        full_name = f"namespaces/default/adapters/{name}/aliases/{alias}"
        shares = version if isinstance(version, dict) else {version: 1}
        targets = [
            resources_pb2.AliasTarget(version=number, weight=weight)
            for number, weight in shares.items()
        ]
        self.registry.SetAlias(
            registry_service_pb2.SetAliasRequest(
                alias=resources_pb2.Alias(name=full_name, targets=targets)
            )
        )

    def status(self) -> admin_service_pb2.Status:
        return self.admin.GetStatus(admin_service_pb2.GetStatusRequest())

    def until(self, condition) -> None:
        """Returns once the status fulfils a condition: it is a snapshot, some steps old."""
        give_up = time.monotonic() + 20
        while not condition(status := self.status()):
            assert time.monotonic() < give_up, status
            time.sleep(0.02)

    def idle(self) -> None:
        """Returns once nothing runs or waits and no KV block is held."""
        self.until(lambda s: not (s.running_requests or s.queued_requests or s.kv_blocks_used))


def request(text: str, *, adapter: str = "", **sampling) -> pb.GenerateRequest:
    sampling.setdefault("ignore_eos", True)
    sampling.setdefault("max_tokens", 16)
    return pb.GenerateRequest(
        text=text, adapter=adapter, sampling=pb.SamplingParameters(**sampling)
    )


@contextmanager
def serving(home: Path, *options: str):
    process = subprocess.Popen(
        [
            sys.executable, "-c", COMMAND, "serve", "--home", str(home),
            "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *options,
        ],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        for line in process.stderr:
            lines.append(line.rstrip())
            if line.startswith("listening on "):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(90), lines
        said = "\n".join(lines)
        assert process.poll() is None, said
        address = re.search(r"^listening on (\S+)$", said, re.M)[1]
        metrics_url = re.search(r"^metrics on (\S+)$", said, re.M)[1]
        with grpc.insecure_channel(address) as channel:
            yield Served(process, home, address, metrics_url, lines, channel)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), "--slots", "2", "--max-rank", "16") as running:
        yield running


@pytest.fixture
def layers(served):
    """The linear layers of the base in the server, as it told the registry: {path: (in, out)}."""
    (base,) = served.registry.ListBases(registry_service_pb2.ListBasesRequest()).bases
    return {m.path: (m.in_features, m.out_features) for m in base.modules if "proj" in m.path}


def test_it_says_what_it_runs_and_where(served):
    assert re.match(
        r"base lorry-tiny sha256:[0-9a-f]{12} on cpu, 0\.\d\d bytes per quantized parameter$",
        served.lines[0],
    )
    assert all(len(line) <= 80 for line in served.lines)
    assert not any("WARNING" in line for line in served.lines)
    assert [line.split(" on ")[0] for line in served.lines[1:3]] == ["metrics", "listening"]


def test_health_and_reflection(served):
    health = health_pb2_grpc.HealthStub(served.channel)
    for name in SERVICES:
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    reflect = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo
    (answer,) = reflect(iter([asked]))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed >= set(SERVICES[1:])


def test_adapters_act_side_by_side_and_an_alias_moves_between_requests(
    served, layers, make_adapter
):
    versions = [
        served.publish("task", make_adapter(layers, rank=rank, seed=rank)) for rank in (4, 16)
    ]
    bare = served.generate("The river ran").text
    texts = [served.generate("The river ran", adapter=f"task:{n}").text for n in (1, 2)]
    assert len({bare, *texts}) == 3
    for number in (1, 2, 1):
        served.point("task", "production", number)
        answer = served.generate("The river ran", adapter="task")
        assert answer.completion.adapter_digest == versions[number - 1].digest
        assert answer.text == texts[number - 1]
    asked = [request("The river ran", adapter=name) for name in ("", "task:1", "task:2")] * 4
    calls = [served.inference.GenerateUnary.future(one, timeout=60) for one in asked]
    assert [call.result().text for call in calls] == [bare, *texts] * 4
    residents = served.admin.ListResidents(admin_service_pb2.ListResidentsRequest()).residents
    assert {r.digest for r in residents if r.tier == admin_service_pb2.TIER_SLOT} == {
        version.digest for version in versions
    }
    scraped = urllib.request.urlopen(served.metrics_url).read().decode()
    assert f'adapter="{versions[0].digest[:19]}",reference="default/task:1"' in scraped


def test_a_canary_gets_its_share_keeps_its_callers_and_is_rolled_back_under_traffic(
    served, layers, make_adapter
):
    stable, canary = (
        served.publish("canary", make_adapter(layers, rank=4, seed=seed)).digest for seed in (7, 8)
    )
    served.point("canary", "production", 1)
    served.point("canary", "production", {1: 90, 2: 10})

    def acted(**options: str) -> str:
        asked = request("Hi", adapter="canary", max_tokens=1)
        if options:
            asked.sticky_key = options["sticky_key"]
        return served.inference.GenerateUnary(asked, timeout=60).completion.adapter_digest

    num_requests, share = 300, 0.1
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: acted(), range(num_requests)))
        keyed = [list(pool.map(lambda n: acted(sticky_key=f"{n}"), range(60))) for _ in range(2)]
    deviation = math.sqrt(num_requests * share * (1 - share))
    assert abs(drawn.count(canary) - num_requests * share) < 5 * deviation
    assert set(drawn) == {stable, canary}
    assert keyed[0] == keyed[1]
    assert set(keyed[0]) == {stable, canary}

    seen: list[tuple[float, str]] = []  # when a request was sent, and what acted
    over = threading.Event()

    def traffic(number: int) -> None:
        while not over.is_set():
            sent = time.monotonic()
            seen.append((sent, acted(sticky_key=f"{number}")))

    callers = [n for n, digest in enumerate(keyed[0]) if digest == canary][:4]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(traffic, number) for number in callers]
        while len(seen) < 20:
            time.sleep(0.01)
        served.registry.RollbackAlias(
            registry_service_pb2.RollbackAliasRequest(
                name="namespaces/default/adapters/canary/aliases/production", why="a test"
            )
        )
        rolled_back = time.monotonic()
        while sum(sent > rolled_back for sent, _ in list(seen)) < 20:
            time.sleep(0.01)
        over.set()
        for one in running:
            one.result()
    assert {digest for sent, digest in seen if sent > rolled_back} == {stable}
    assert canary in {digest for sent, digest in seen if sent < rolled_back}


def test_a_block_ends_what_runs_and_unloads_even_what_is_pinned(served, layers, make_adapter):
    version = served.publish("leaky", make_adapter(layers, rank=4, seed=9))
    served.until(lambda status: status.registry.connected)
    served.admin.LoadAdapter(
        admin_service_pb2.LoadAdapterRequest(adapter="leaky", pin=True), timeout=60
    )
    context = served.status().context_length
    running = served.inference.Generate(
        request("Hi", adapter="leaky", max_tokens=context - 20), timeout=60
    )
    next(running)
    served.registry.BlockVersion(
        registry_service_pb2.BlockVersionRequest(name=version.name, why="it leaks")
    )
    with pytest.raises(grpc.RpcError) as ended:
        list(running)
    assert ended.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "default/leaky:1 is blocked: it leaks" in ended.value.details()
    with pytest.raises(grpc.RpcError) as refused:
        served.generate("Hi", adapter=f"leaky@{version.digest}")
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    give_up = time.monotonic() + 20
    while any(
        resident.digest == version.digest and resident.tier != admin_service_pb2.TIER_DISK
        for resident in served.admin.ListResidents(
            admin_service_pb2.ListResidentsRequest()
        ).residents
    ):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    served.idle()
    served.registry.UnblockVersion(registry_service_pb2.UnblockVersionRequest(name=version.name))
    assert served.generate("Hi", adapter="leaky").completion.adapter_digest == version.digest
    served.registry.DeprecateVersion(
        registry_service_pb2.DeprecateVersionRequest(
            name=version.name, deprecation=resources_pb2.Deprecation(reason="it is old")
        )
    )
    (warning,) = served.generate("Hi", adapter="leaky").completion.warnings
    assert warning == "default/leaky:1 is deprecated: it is old."


def test_a_composition_is_asked_for_merged_and_published(served, layers, make_adapter):
    """The sum per request, merged, and as a version of its own: one text, and a lineage that tells of its parents."""
    parents = {
        name: served.publish(name, make_adapter(layers, rank=rank, seed=rank))
        for name, rank in (("one", 4), ("two", 8))
    }
    expression = "one*0.7+two*0.3"
    with Client(served.address) as client:
        asked = client.generate("Once upon", expression, max_tokens=16)
        assert {term.digest for term in asked.terms} == {v.digest for v in parents.values()}
        again = client.generate("Once upon", asked.adapter, max_tokens=16)
        assert (again.text, again.adapter_digest) == (asked.text, asked.adapter_digest)
        assert client.generate("Once upon", max_tokens=16).text != asked.text
        merged = client.merge(expression)
        assert merged.digest == asked.adapter_digest
        assert client.generate("Once upon", expression, max_tokens=16).text == asked.text
        client.unmerge()
        server = ["--server", served.address]
        done = CliRunner().invoke(
            build_app(), ["compose", expression, "both", "--alias", "production", *server]
        )
        assert done.exit_code == 0, done.output
        version = client.resolve("both")
        assert done.stdout.strip() == f"default/both@{version.digest}"
        assert version.lineage is not None
        assert set(version.lineage.parents) == {v.digest for v in parents.values()}
        assert asked.adapter in version.lineage.recipe
        published = client.generate("Once upon", "both", max_tokens=16)
        assert published.adapter_digest == version.digest
        assert published.text == asked.text


def test_what_streams_is_the_unary_answer(served):
    asked = request("Once upon a time", max_tokens=40)
    deltas = list(served.inference.Generate(asked, timeout=60))
    answer = served.generate("Once upon a time", max_tokens=40)
    assert "".join(delta.text for delta in deltas) == answer.text
    assert len(answer.token_ids) == 40
    seeded = [
        served.generate("Once upon a time", temperature=1.0, seed=seed).text for seed in (1, 1, 2)
    ]
    assert seeded[0] == seeded[1] != seeded[2]
    words = answer.text.split()
    stopped = served.generate("Once upon a time", max_tokens=40, stop=[words[3]])
    assert stopped.text == answer.text[: answer.text.find(words[3])]


def test_clients_that_vanish_leave_nothing_behind(served, layers, make_adapter):
    served.publish("left", make_adapter(layers, rank=8, seed=3))
    context = served.status().context_length
    calls = [
        served.inference.Generate(request("Hi", adapter=name, max_tokens=context - 20))
        for name in ("", "left") * 3
    ]
    for call in calls:
        next(call)
    served.until(lambda status: status.running_requests == 6 and status.kv_blocks_used >= 6)
    for call in calls:
        call.cancel()
    served.idle()
    with pytest.raises(grpc.RpcError) as late:
        served.inference.GenerateUnary(request("Hi", max_tokens=context - 20), timeout=0.1)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    served.idle()


def test_an_adapter_that_was_published_with_a_higher_cap_is_refused_by_name(
    served, layers, make_adapter
):
    with pytest.raises(grpc.RpcError) as refused:
        served.publish("wide", make_adapter(layers, rank=17, seed=1))
    assert "17" in refused.value.details()


def test_two_servers_on_one_port(served, tmp_path):
    ports = {"--listen": served.address, "--metrics": served.metrics_url.split("/")[2]}
    for option, address in ports.items():
        others = {"--listen": "127.0.0.1:0", "--metrics": ""} | {option: address}
        with pytest.raises(SystemExit) as ended:
            run(tmp_path, *(part for pair in others.items() for part in pair), code=5)
        assert address in str(ended.value)
        assert option in str(ended.value)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--base", "no-such-base"], 3, "no-such-base"),
        (["--base", "./nowhere"], 3, "nowhere"),
        (["--registry", "127.0.0.1:1"], 6, "127.0.0.1:1"),
        (["--registry", ""], 4, "--registry"),
        (["--listen", "nonsense"], 4, "nonsense"),
        (["--listen", "::1:7070"], 4, "::1:7070"),
        (["--home", "FILE/home"], 5, "FILE/home"),
        (["--slots", "0"], 4, "slots"),
        (["--cache-bytes", "0"], 4, "cache-bytes"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_line_and_has_its_exit_code(
    tmp_path, monkeypatch, options, code, said
):
    """Every failure to start used to exit with 1, and `--json` was not listened to."""
    monkeypatch.setattr("lorry_server.registries.remote._ANSWER_SECONDS", 0.5)
    (tmp_path / "FILE").write_text("in the way")
    options = [option.replace("FILE", str(tmp_path / "FILE")) for option in options]
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "home", "--listen", "127.0.0.1:0", "--metrics", "", *options, code=code)
    assert said.replace("FILE", str(tmp_path / "FILE")) in str(ended.value)


def test_a_failure_to_start_is_json_where_that_is_asked_for(tmp_path):
    ended = invoke("--home", str(tmp_path), "--listen", "nonsense", "--json")
    assert ended.exit_code == 4
    error = json.loads(ended.stderr)["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "ADDRESS_INVALID")


def test_without_the_server_extra_it_says_what_to_install(tmp_path):
    code = f"import sys; sys.modules['torch'] = sys.modules['transformers'] = None; {COMMAND}"
    ended = subprocess.run(
        [sys.executable, "-c", code, "serve", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "pip install 'lorry[server]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def _with_session(context: Context) -> None:
    context.ensure_object(Session)


def invoke(*arguments: str):
    """The command within this process, under the `lorry` that catches its errors."""
    app = Typer(cls=Root, pretty_exceptions_enable=False)
    app.callback()(_with_session)
    register(app)
    return CliRunner().invoke(app, ["serve", *arguments])


def run(home: Path, *options: str, code: int) -> None:
    """SystemExit with the command's one line, which must be all it says."""
    ended = invoke("--home", str(home), *options)
    assert ended.exit_code == code, ended.output
    assert ended.stdout == ""
    line = ended.stderr.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    raise SystemExit(line)


def test_killed_it_starts_again_and_told_to_stop_it_ends_its_streams(served, layers, make_adapter):
    """The last one that needs `served`, which it kills."""
    version = served.publish("kept", make_adapter(layers, rank=4, seed=1))
    text = served.generate("Hello", adapter="kept").text
    stream = served.inference.Generate(request("Hello", adapter="kept", max_tokens=400))
    next(stream)
    served.process.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as cut:
        list(stream)
    assert cut.value.code() is grpc.StatusCode.UNAVAILABLE

    with serving(served.home) as again:
        answer = again.generate("Hello", adapter="kept")
        assert (answer.text, answer.completion.adapter_digest) == (text, version.digest)
        stream = again.inference.Generate(request("Hello", adapter="kept", max_tokens=300))
        next(stream)
        again.process.send_signal(signal.SIGTERM)
        while not any(line.startswith("stopping") for line in again.lines):
            time.sleep(0.01)
        with pytest.raises(grpc.RpcError) as refused:
            again.generate("Hello")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        rest = list(stream)
        assert rest[-1].completion.usage.completion_tokens == 300
        assert again.process.wait(20) == 0
        assert "Traceback" not in "\n".join(again.lines)


def test_the_command_is_light_to_import():
    """`lorry --help` imports it."""
    code = f"import sys; import lorry_server.cli; print({json.dumps(HEAVY)} & sys.modules.keys())"
    code = code.replace(json.dumps(HEAVY), f"set({json.dumps(HEAVY)})")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


HEAVY = [
    "torch",
    "transformers",
    "grpc",
    "sqlalchemy",
    "numpy",
    "prometheus_client",
    "platformdirs",
]
