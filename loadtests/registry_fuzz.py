"""Hostile adapter files and mutated requests against a real registry process, over a real socket.

    python loadtests/registry_fuzz.py --files 10000 --requests 10000 [--seed 1]

Every answer must be one of our own: no INTERNAL and no UNKNOWN, no trace in the log, no file outside the home, memory
within a bound, and at the end the process still serves. Prints what was answered, and exits with 1 where that fails.
The same seed sends the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from lorry.registry.v1 import (
    access_service_pb2,
    blob_service_pb2,
    registry_service_pb2,
    resources_pb2,
    watch_service_pb2,
)
from lorry_registry.digests import digest_bytes

SERVICES = (registry_service_pb2, blob_service_pb2, watch_service_pb2, access_service_pb2)
MODULES = {
    f"model.layers.{layer}.self_attn.{name}": size
    for layer in (0, 1)
    for name, size in (("q_proj", (8, 8)), ("v_proj", (8, 4)))
}
ADAPTER = "namespaces/default/adapters/fuzz"
FINGERPRINT = "sha256:" + "a" * 64
MAX_GROWTH_BYTES = 256 << 20
"""By so much may the process grow while it is attacked: what it keeps must not grow with what it is sent."""
_DEADLINE_SECONDS = 20.0
_WATCH_SECONDS = 0.02
_BAD = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)


@dataclass
class Report:
    """What came of it."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    rss_before: int = 0
    rss_after: int = 0
    seconds: float = 0.0

    def count(self, what: str, error: grpc.RpcError | None) -> None:
        code = "OK" if error is None else error.code().name
        self.answers[f"{what} {code}"] += 1
        if error is not None and error.code() in _BAD:
            self.faults.append(f"{what}: {code} {str(error.details())[:300]}")


# The registry under attack.


@dataclass(frozen=True)
class Target:
    address: str
    process: subprocess.Popen[str]
    root: Path
    log: Path

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) << 10

    def outside(self) -> set[str]:
        """Everything beside the home that could have been written: the process works in a folder of its own."""
        home = self.root / "home"
        return {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path != home and home not in path.parents
        }


@contextmanager
def registry() -> Iterator[Target]:
    """A process of its own, which knows one base and one adapter."""
    with tempfile.TemporaryDirectory(prefix="lorry-fuzz-") as folder:
        root = Path(folder)
        (root / "work").mkdir()
        log = root / "log.txt"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lorry_client", "registry", "serve"),
                    *("--home", str(root / "home"), "--listen", "127.0.0.1:0"),
                ],
                cwd=root / "work",
                stderr=stderr,
                text=True,
            )
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"listening on (\S+)", log.read_text())):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the registry did not start: {log.read_text()}")
                time.sleep(0.05)
            target = Target(found[1], process, root, log)
            with grpc.insecure_channel(target.address) as channel:
                _prepare(channel)
            yield target
        finally:
            process.terminate()
            process.wait(30)


def _prepare(channel: grpc.Channel) -> None:
    base = resources_pb2.Base(
        fingerprint=FINGERPRINT,
        display_name="tiny",
        architecture="LlamaForCausalLM",
        quantization="nf4",
        modules=[
            resources_pb2.LinearModule(path=path, in_features=n_in, out_features=n_out)
            for path, (n_in, n_out) in MODULES.items()
        ],
        context_length=128,
    )
    registry_name = "lorry.registry.v1.RegistryService"
    for method, request in (
        ("CreateBase", registry_service_pb2.CreateBaseRequest(base=base)),
        (
            "CreateAdapter",
            registry_service_pb2.CreateAdapterRequest(
                parent="namespaces/default", adapter_id="fuzz"
            ),
        ),
    ):
        send = channel.unary_unary(f"/{registry_name}/{method}")
        send(request.SerializeToString(), timeout=_DEADLINE_SECONDS)


# Hostile files.


def good_tensors(rng: random.Random, rank: int = 2) -> dict[str, tuple[str, list[int], bytes]]:
    """dtype, shape and bytes by name, of an adapter that is well."""
    tensors = {}
    for path, (n_in, n_out) in MODULES.items():
        for part, shape in (("lora_A", [rank, n_in]), ("lora_B", [n_out, rank])):
            count = shape[0] * shape[1]
            data = struct.pack(f"<{count}f", *(rng.uniform(-1, 1) for _ in range(count)))
            tensors[f"base_model.model.{path}.{part}.weight"] = ("F32", shape, data)
    return tensors


def pack(tensors: Mapping[str, tuple[str, list[int], bytes]]) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and data."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += raw
    return header, data


NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 7, 255, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63),
    10**400, 1.5, -0.0, 1e308, float("inf"), float("nan"), True, None,
)  # fmt: skip
TEXTS = (
    "", " ", "x", "..", "../../etc/passwd", "/etc/passwd", "C:\\evil", "a\0b", "?", "ü" * 50, "\u202e", "a" * 10_000,
    "(a+)+$", "(.*)*" * 20, "[", "^(?:a|a?)+$", "%s%n", "{}", "'; DROP TABLE adapters; --", "lora_A", "lora_B",
    "default", "production", "sha256:" + "0" * 64, FINGERPRINT, "-", "*", "namespaces/-", "namespaces/default", ADAPTER,
    f"{ADAPTER}/versions/1", f"{ADAPTER}/aliases/production", "fuzz", "fuzz:1", "fuzz@production", "models:/fuzz/1",
    "bases/" + FINGERPRINT, "tokens/" + "0" * 16,
    "name =", 'name = "f*" AND labels.a = "b"', "rank <= 16", "create_time desc",
)  # fmt: skip


LIKELY: Mapping[str, tuple[str, ...]] = {
    "name": (
        ADAPTER, f"{ADAPTER}/versions/1", f"{ADAPTER}/aliases/production", f"bases/{FINGERPRINT}", "namespaces/default",
        "namespaces/made", "tokens/" + "0" * 16,
    ),
    "parent": (
        ADAPTER, "namespaces/default", "namespaces/-", f"{ADAPTER}/versions/1", f"{ADAPTER}/aliases/production",
    ),
    "adapter": ("fuzz", "fuzz:1", "fuzz@production", "default/fuzz"),
    "text": ("Once upon a time", ""),
    "reference": ("fuzz", "fuzz:1", "fuzz@production", "models:/fuzz/1", f"fuzz@{FINGERPRINT}"),
    "digest": (FINGERPRINT, "sha256:" + "0" * 64),
    "digests": (FINGERPRINT, "sha256:" + "0" * 64),
    "adapter_id": ("fuzz", "made"),
    "namespace_id": ("made", "default"),
    "grants": ("read:default", "admin:*"),
    "filter": ('name = "f*"', 'labels.a = "b" AND rank <= 16', f'base = "{FINGERPRINT}"'),
    "fingerprint": (FINGERPRINT, "sha256:" + "b" * 64),
    "paths": ("description", "labels", "quotas", "*"),
}  # fmt: skip
"""What gets past the first check, by the field's name."""


def odd(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, seldom a deep one."""
    choice = rng.random()
    if choice < 0.4:
        return rng.choice(NUMBERS)
    if choice < 0.75 or depth > 3:
        return rng.choice(TEXTS)
    if choice < 0.88:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS): odd(rng, depth + 1) for _ in range(rng.randrange(4))}


def _mutate_json(rng: random.Random, value: Any) -> Any:
    """One place of a JSON value, somewhere in it, becomes something else."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        fate = rng.random()
        if fate < 0.15:
            return {name: one for name, one in value.items() if name != key}
        if fate < 0.3:
            return {**value, rng.choice(TEXTS): odd(rng)}
        if fate < 0.4:
            return {
                (rng.choice(TEXTS) if name == key else name): one for name, one in value.items()
            }
        return {**value, key: _mutate_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _mutate_json(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 8, -8, 1 << 40))
    return odd(rng)


def _mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return rng.randbytes(rng.randrange(20))
    at = rng.randrange(len(data))
    fate = rng.random()
    if fate < 0.35:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if fate < 0.5:
        return data[:at]
    if fate < 0.65:
        return data[:at] + rng.randbytes(rng.randrange(1, 30)) + data[at:]
    if fate < 0.8:
        return data[:at] + data[at + rng.randrange(1, 20) :]
    if fate < 0.9:
        return data + data[at:]
    return rng.randbytes(rng.randrange(200))


def _deep(rng: random.Random) -> bytes:
    depth = rng.choice((100, 1000, 100_000))
    return rng.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))


def _bomb(_: random.Random) -> bytes:
    """Four megabytes of zeros, as an archive of a few kilobytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("adapter_model.bin", bytes(4 << 20))
    return stream.getvalue()


def _weights(rng: random.Random) -> bytes:
    tensors = good_tensors(rng)
    if rng.random() < 0.2:
        name = rng.choice(list(tensors))
        dtype, shape, data = tensors[name]
        bad = struct.pack("<f", rng.choice((float("inf"), float("nan"), 3e38)))
        tensors[name] = (dtype, shape, bad + data[4:])
    header, data = pack(tensors)
    fate = rng.random()
    if fate < 0.05:
        return rng.choice((_bomb, _deep, lambda r: r.randbytes(100), lambda r: b""))(rng)
    if fate < 0.6:
        for _ in range(rng.randrange(1, 4)):
            changed = _mutate_json(rng, header)
            header = changed if isinstance(changed, dict) else header
    raw = json.dumps(header).encode()
    if 0.6 <= fate < 0.65:
        raw = _deep(rng)
    if 0.65 <= fate < 0.7:  # the same name twice, which JSON readers differ about
        raw = raw[:-1] + b"," + raw[1:]
    length = len(raw)
    if 0.7 <= fate < 0.8:
        length = rng.choice((0, 1, length - 1, length + 1, 1 << 20, 1 << 40, (1 << 64) - 1))
    file = struct.pack("<Q", length & ((1 << 64) - 1)) + raw + data
    return _mutate_bytes(rng, file) if fate >= 0.8 else file


def _config(rng: random.Random) -> bytes:
    config: Any = {
        "peft_type": rng.choice(("LORA", "LORA", "LORA", "IA3", "BONE", "PROMPT_TUNING", "VERA")),
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
        "target_modules": rng.choice((["q_proj", "v_proj"], "all-linear", r".*\.[qv]_proj")),
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "base_model_name_or_path": "tiny",
    }
    fate = rng.random()
    if fate < 0.3:
        return json.dumps(config).encode()
    if fate < 0.4:
        return rng.choice((_bomb, _deep, lambda r: r.randbytes(100), lambda r: b""))(rng)
    for _ in range(rng.randrange(1, 4)):
        config = _mutate_json(rng, config)
    raw = json.dumps(config).encode("utf-8", "surrogatepass")
    return _mutate_bytes(rng, raw) if fate > 0.9 else raw


def hostile_adapter(rng: random.Random) -> dict[str, bytes]:
    """Files by name; now and then with a name that wants to be elsewhere."""
    files = {"adapter_config.json": _config(rng), "adapter_model.safetensors": _weights(rng)}
    if rng.random() < 0.1:
        files[rng.choice(TEXTS)] = rng.randbytes(10)
    if rng.random() < 0.05:
        files[rng.choice(("adapter_model.bin", "x.PKL", "model.sig", "lineage.json"))] = _bomb(rng)
    return files


def attack_with_files(channel: grpc.Channel, rng: random.Random, report: Report) -> None:
    """Uploads one hostile adapter as any client would, and asks for a version of it."""
    files = hostile_adapter(rng)
    manifest = []
    write = channel.stream_unary("/lorry.registry.v1.BlobService/WriteBlob")
    for path, data in files.items():
        digest = digest_bytes(data)
        piece = blob_service_pb2.WriteBlobRequest(
            digest=digest, size_bytes=len(data), data=data, finish_write=True
        )
        error = _call(
            lambda p=piece: write(iter([p.SerializeToString()]), timeout=_DEADLINE_SECONDS)
        )
        report.count("WriteBlob", error)
        manifest.append(
            resources_pb2.File(
                path=path.encode("utf-8", "replace").decode(),
                digest=digest,
                size_bytes=len(data) + (rng.random() < 0.01),
            )
        )
    request = registry_service_pb2.CreateVersionRequest(
        parent=ADAPTER, version=resources_pb2.Version(files=manifest)
    )
    create = channel.unary_unary("/lorry.registry.v1.RegistryService/CreateVersion")
    report.count(
        "CreateVersion",
        _call(lambda: create(request.SerializeToString(), timeout=_DEADLINE_SECONDS)),
    )


# Mutated requests.


def methods() -> list[MethodDescriptor]:
    return [
        method
        for module in SERVICES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def any_message(rng: random.Random, descriptor: Descriptor, depth: int = 0) -> Any:
    """A message with odd values in some of its fields."""
    message = message_factory.GetMessageClass(descriptor)()
    for known in descriptor.fields:
        if rng.random() < 0.35 or depth > 4:
            continue
        for _ in range(rng.randrange(1, 4) if known.is_repeated else 1):
            _fill(rng, message, known, depth)
    return message


def _fill(rng: random.Random, message: Any, known: FieldDescriptor, depth: int) -> None:
    value = _value(rng, known, depth)
    entry = known.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key = _value(rng, entry.fields_by_name["key"], depth)
        item = _value(rng, entry.fields_by_name["value"], depth)
        if entry.fields_by_name["value"].message_type is None:
            getattr(message, known.name)[key] = item
        else:
            getattr(message, known.name)[key].CopyFrom(item)
    elif entry is not None:
        place = getattr(message, known.name)
        (place.add() if known.is_repeated else place).CopyFrom(value)
    elif known.is_repeated:
        getattr(message, known.name).append(value)
    else:
        setattr(message, known.name, value)


def _value(rng: random.Random, known: FieldDescriptor, depth: int) -> Any:
    match known.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if known.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.choice((0, 1, 10, 1000)))
            likely = LIKELY.get(known.name)
            return rng.choice(likely if likely and rng.random() < 0.7 else TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice((0.0, -1.0, 1e308, float("inf"), float("nan")))
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return any_message(rng, known.message_type, depth + 1)
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice((0, 1, 99))
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice((0, 1, -1, 7, (1 << 31) - 1, -(1 << 31)))
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice((0, 1, -1, 7, (1 << 63) - 1, -(1 << 63)))
        case _:
            return rng.choice((0, 1, 7, (1 << 32) - 1))


def attack_with_request(channel: grpc.Channel, rng: random.Random, report: Report) -> None:
    """One call of any RPC, with odd values, and in half of the cases with bytes that are no message at all."""
    method = rng.choice(methods())
    pieces = []
    for _ in range(rng.randrange(1, 4) if method.client_streaming else 1):
        data = any_message(rng, method.input_type).SerializeToString()
        for _ in range(rng.randrange(1, 5) if rng.random() < 0.5 else 0):
            data = _mutate_bytes(rng, data)
        pieces.append(data)
    name = f"/{method.containing_service.full_name}/{method.name}"
    sent = iter(pieces) if method.client_streaming else pieces[0]
    shape = ("stream" if method.client_streaming else "unary") + "_"
    shape += "stream" if method.server_streaming else "unary"
    send = getattr(channel, shape)(name)
    seconds = _WATCH_SECONDS if method.name == "Watch" else _DEADLINE_SECONDS
    metadata = [
        (
            "authorization",
            rng.choice(("", "Bearer", "Bearer x", "Basic eDp4", "Bearer lorry_" + "0" * 60)),
        )
    ]

    def act() -> None:
        answer = send(sent, timeout=seconds, metadata=metadata if rng.random() < 0.2 else None)
        for _ in answer if method.server_streaming else ():
            pass

    report.count(method.name, _call(act))


def _call(act: Callable[[], object]) -> grpc.RpcError | None:
    try:
        act()
    except grpc.RpcError as error:
        return error
    return None


# The whole attack.


def attack(target: Target, *, files: int, requests: int, seed: int) -> Report:
    report = Report()
    rng = random.Random(seed)
    before = target.outside()
    start = time.monotonic()
    with grpc.insecure_channel(target.address) as channel:
        # What Python and its libraries take once is not what an attack costs: that is counted from here on.
        for _ in range(20):
            attack_with_files(channel, random.Random(rng.random()), report)
            attack_with_request(channel, random.Random(rng.random()), report)
        report.rss_before = target.rss_bytes()
        for count, act in ((files, attack_with_files), (requests, attack_with_request)):
            for _ in range(count):
                act(channel, random.Random(rng.random()), report)
        report.rss_after = target.rss_bytes()
        report.seconds = time.monotonic() - start
        alive = channel.unary_unary("/lorry.registry.v1.RegistryService/ListBases")
        alive(b"", timeout=_DEADLINE_SECONDS)
    if target.process.poll() is not None:
        report.faults.append(f"the process ended with {target.process.returncode}")
    if new := target.outside() - before:
        report.faults.append(f"files outside the home: {sorted(new)[:5]}")
    if report.rss_after - report.rss_before > MAX_GROWTH_BYTES:
        report.faults.append(f"it grew from {report.rss_before} to {report.rss_after} bytes")
    log = target.log.read_text(errors="replace")
    for sign in ("Traceback", "unexpected failure", "Exception"):
        if sign in log:
            at = log.index(sign)
            report.faults.append(f"the log has {sign!r}: {log[at : at + 2000]}")
            break
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with registry() as target:
        report = attack(target, files=options.files, requests=options.requests, seed=options.seed)
    for what, count in sorted(report.answers.items()):
        print(f"{count:>8}  {what}")
    grown = (report.rss_after - report.rss_before) / (1 << 20)
    print(
        f"{sum(report.answers.values())} calls in {report.seconds:.0f} s; memory grew by {grown:.1f} MiB"
    )
    for fault in report.faults[:20]:
        print(f"FAULT {fault}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
