"""What is left of a registry whose clients and processes are killed at random moments?

    python loadtests/registry_crash.py [--pushes N] [--stores home|shared|both] [--seed N] [--json FILE]

Each push runs in a client process of its own, against a registry in another. At a moment of the push, drawn at random
over somewhat more than its usual time, the client, the registry or both get SIGKILL (and sometimes nobody does); a dead
registry is started again at once, while the client goes on trying. A push that came to nothing is tried again later,
so that unfinished uploads are resumed. Afterwards, with every process dead:

- every version that can be seen is whole, and numbers run without a gap;
- every push that was acknowledged is there, under its number, with its digest;
- `fsck` finds nothing;
- `gc` takes what no version names and what unfinished writes left, and nothing else.

`home` is SQLite and a folder. `shared` is PostgreSQL (at LORRY_TEST_POSTGRES, else on 127.0.0.1, in a database of its
own) and S3 (moto, in this process, which nobody kills).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lorry_registry.catalogue import Catalogue
from lorry_registry.config import RegistryConfig
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey, Base, LinearModule

POSTGRES = os.environ.get("LORRY_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
MODULES = {f"model.layers.0.self_attn.{name}_proj": (1024, 1024) for name in "qv"}
NAMES = ("intent", "support", "tags")
KILLED = ("client", "registry", "both", "nobody")
_PROCESSES = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "lorry_registry.rpc.server",
    "lorry_client.client",
    "lorry_registry.s3_objects",
    "numpy",
]
_START_SECONDS = 60.0
_PUSH_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """One run."""

    pushes: int = 200
    seed: int = 0
    large_every: int = (
        10  # one in so many adapters has some MiB: more than one part of an S3 upload
    )


@dataclass
class Outcome:
    """What happened, and what was wrong afterwards."""

    killed: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    resumed: int = 0
    versions: int = 0
    leftovers: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pushes", type=int, default=Plan.pushes)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--stores", choices=("home", "shared", "both"), default="both")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plan = Plan(options.pushes, options.seed)
    kinds = ("home", "shared") if options.stores == "both" else (options.stores,)
    outcomes = {kind: run(plan, kind) for kind in kinds}
    print(
        "| stores | pushes | killed | acknowledged | resumed | versions | leftovers | wrong | s |"
    )
    print("| --- | --: | --- | --: | --: | --: | --: | --: | --: |")
    for kind, outcome in outcomes.items():
        killed = ", ".join(f"{who} {outcome.killed[who]}" for who in KILLED)
        print(
            f"| {kind} | {plan.pushes} | {killed} | {outcome.acknowledged} | {outcome.resumed} | "
            f"{outcome.versions} | {outcome.leftovers} | {len(outcome.wrong)} | {outcome.seconds:.0f} |"
        )
    if options.json:
        written = {"plan": asdict(plan), **{kind: vars(o) for kind, o in outcomes.items()}}
        options.json.write_text(json.dumps(written, indent=2) + "\n")
    for kind, outcome in outcomes.items():
        for line in outcome.wrong:
            print(f"{kind}: {line}", file=sys.stderr)
    sys.exit(any(outcome.wrong for outcome in outcomes.values()))


def run(plan: Plan, kind: str) -> Outcome:
    """Pushes and kills on stores of its own, and looks at what is left."""
    outcome, started = Outcome(), time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorry-crash-")))
        stores: dict[str, str] = {}
        if kind == "shared":
            stores["database"] = stack.enter_context(postgres_database())
            stores["blobs"] = stack.enter_context(s3_bucket())
        home = folder / "home"
        with closing(open_catalogue(home, **stores)) as catalogue:
            catalogue.put_base(base())
        registry = Registry(RegistryConfig(home, listen=f"127.0.0.1:{free_port()}", **stores))
        stack.callback(registry.kill)
        acknowledged = _push_and_kill(plan, registry, folder, outcome)
        registry.kill()
        with closing(open_catalogue(home, **stores)) as catalogue:
            outcome.wrong += _examine(catalogue, acknowledged, outcome)
    outcome.seconds = time.monotonic() - started
    return outcome


# Pushing and killing.


def _push_and_kill(
    plan: Plan, registry: Registry, folder: Path, outcome: Outcome
) -> list[tuple[str, int, str]]:
    """Returns name, number and digest of every version that a push said it had made."""
    chance = random.Random(plan.seed)
    _PROCESSES.set_forkserver_preload(_PRELOADED)
    registry.start()
    usual = statistics.median(
        _push(registry, _adapter(folder / f"first-{i}", rank=8, seed=10**6 + i), "warm")[1]
        for i in range(3)
    )
    acknowledged: list[tuple[str, int, str]] = []
    unfinished: list[tuple[Path, str]] = []
    for number in range(plan.pushes):
        if unfinished and chance.random() < 0.5:
            source, name = unfinished.pop(chance.randrange(len(unfinished)))
        else:
            large = number % plan.large_every == 0
            rank = 512 * 3 if large else chance.choice((4, 16, 64))
            source = _adapter(folder / f"adapter-{number}", rank, seed=number)
            name = chance.choice(NAMES)
        who = chance.choice(KILLED)
        outcome.killed[who] += 1
        pushed, _, states = _push(registry, source, name, who, usual * 1.3 * chance.random())
        if pushed is None:
            unfinished.append((source, name))
        else:
            acknowledged.append(pushed)
            outcome.resumed += "resumed" in states
            shutil.rmtree(source)
    outcome.acknowledged = len(acknowledged)
    return acknowledged


def _push(
    registry: Registry, source: Path, name: str, who: str = "nobody", after: float = 0.0
) -> tuple[tuple[str, int, str] | None, float, list[str]]:
    """What the client was told, if it was; how long it took; how its files got there."""
    receiving, sending = _PROCESSES.Pipe(duplex=False)
    client = _PROCESSES.Process(target=_client, args=(registry.address, source, name, sending))
    client.start()
    sending.close()
    receiving.recv()  # from here on it pushes
    started = time.monotonic()
    if who != "nobody":
        time.sleep(after)
        if who in ("client", "both"):
            client.kill()
        if who in ("registry", "both"):
            registry.kill()
            registry.start()
    client.join(_PUSH_SECONDS)
    if client.is_alive():
        client.kill()
        raise RuntimeError(f"a push of {source} hangs")
    try:
        told = receiving.recv() if receiving.poll() else None
    except EOFError:
        told = None
    seconds = time.monotonic() - started
    return (None, seconds, []) if told is None else (*told[:1], seconds, told[1])


def _client(address: str, source: Path, name: str, answer: Any) -> None:
    from lorry_client.client import Client
    from lorry_client.errors import LorryError

    try:
        with Client(address) as client:
            answer.send("ready")
            pushed = client.push(source, name)
    except LorryError:
        return
    version = pushed.version
    answer.send(
        ((name, version.number, version.digest), [file.state.value for file in pushed.files])
    )


class Registry:
    """A registry's process, dead or alive, always at one address."""

    def __init__(self, config: RegistryConfig) -> None:
        self.address = config.listen
        self._config = config
        self._process: Any = None

    def start(self) -> None:
        """Returns once it listens."""
        self._process = _PROCESSES.Process(target=_serve, args=(self._config, dict(os.environ)))
        self._process.start()
        host, port = self.address.split(":")
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            if not self._process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the registry did not start: exit code {self._process.exitcode}"
                )
            time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            assert self._process.exitcode == -signal.SIGKILL, self._process.exitcode
            self._process = None


def _serve(config: RegistryConfig, environment: dict[str, str]) -> None:
    from lorry_registry.rpc.server import run as run_registry

    os.environ.update(
        environment
    )  # the server that forks this process may be older than S3's variables
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    run_registry(config)


# What is left.


def _examine(
    catalogue: Catalogue, acknowledged: list[tuple[str, int, str]], outcome: Outcome
) -> Iterator[str]:
    used = set()
    for adapter in catalogue.list_adapters(None, page_size=1000).items:
        versions = list(_all_versions(catalogue, adapter.key))
        outcome.versions += len(versions)
        numbers = [version.number for version in versions]
        if numbers != list(range(len(versions), 0, -1)):
            yield f"the versions of {adapter.key} are {numbers}"
        for version in versions:
            for file in version.files:
                used.add(file.digest)
                if not catalogue.blobs.progress(file.digest).complete:
                    yield f"{version.key}:{version.number} can be seen without its {file.path}"
    for name, number, digest in acknowledged:
        if catalogue.get_version(AdapterKey("default", name), number).digest != digest:
            yield f"{name}:{number} was acknowledged as {digest}"
    yield from (f"fsck: {finding}" for finding in catalogue.check())
    there = {blob.digest: blob.size_bytes for blob in catalogue.blobs.blobs()}
    lost = there.keys() - used
    writes = sum(1 for _ in catalogue.blobs.leftovers())
    outcome.leftovers = len(lost) + writes
    done = catalogue.collect(grace_seconds=-5)  # clocks of whole seconds too
    if (done.blobs, done.writes) != (len(lost), writes):
        yield f"gc took {done}, and {len(lost)} blobs and {writes} writes were left over"
    if {blob.digest for blob in catalogue.blobs.blobs()} != used:
        yield "after gc the blobs are not those that versions name"
    if any(True for _ in catalogue.blobs.leftovers()):
        yield "after gc there are unfinished writes"
    yield from (f"fsck after gc: {finding}" for finding in catalogue.check())


def _all_versions(catalogue: Catalogue, key: AdapterKey) -> Iterator[Any]:
    token = ""
    while True:
        page = catalogue.list_versions(key, page_size=1000, page_token=token)
        yield from page.items
        token = page.next_token
        if not token:
            return


# What it runs on.


def base() -> Base:
    modules = tuple(LinearModule(path, *size) for path, size in MODULES.items())
    return Base("sha256:" + "b" * 64, "crash", "LlamaForCausalLM", "nf4", modules, 0, 128)


def _adapter(folder: Path, rank: int, seed: int) -> Path:
    """An adapter's folder, unlike every other seed's."""
    numbers, header, data = np.random.default_rng(seed), {}, b""
    for path, (n_in, n_out) in MODULES.items():
        for name, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
            tensor = numbers.random(shape, dtype=np.float32).astype(np.float16).tobytes()
            header[f"base_model.model.{path}.lora_{name}.weight"] = {
                "dtype": "F16",
                "shape": list(shape),
                "data_offsets": [len(data), len(data) + len(tensor)],
            }
            data += tensor
    raw = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of an empty database of its own."""
    import psycopg

    name = f"lorry_{secrets.token_hex(8)}"
    with psycopg.connect(POSTGRES, autocommit=True, connect_timeout=5) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield POSTGRES.rpartition("/")[0] + f"/{name}"
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def s3_bucket() -> Iterator[str]:
    """The URL of an empty bucket; AWS's variables lead to it, in the processes that are started too."""
    import logging

    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://{host}:{port}",
        AWS_ACCESS_KEY_ID="crash",
        AWS_SECRET_ACCESS_KEY="crash",
        AWS_DEFAULT_REGION="us-east-1",
    )
    name = f"lorry-{secrets.token_hex(8)}"
    s3fs.S3FileSystem().call_s3("create_bucket", Bucket=name)
    try:
        yield f"s3://{name}/crash"
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
