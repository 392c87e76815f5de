"""What the server's tests share: a base, an engine and a registry that are honest fakes, and a server on a real socket.

The fake engine keeps the real one's promises (its queue, its limits, its thread, its answers) without a model: the next
token is a function of the sequence and the adapter. So the services are tested to the last byte in milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import threading
import time
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from lorry.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from lorry.inference.v1 import inference_service_pb2 as pb
from lorry.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from lorry_registry.entities import Base, File
from lorry_registry.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    LorryError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from lorry_registry.references import parse_reference
from lorry_registry.rpc.host import GrpcHost, create_server
from lorry_server.adapters import AdapterDirectory
from lorry_server.base import ServedBase
from lorry_server.cache import AdapterCache
from lorry_server.composition import SERVICE_NAMES, Services, build_services
from lorry_server.engine.request import (
    FinishReason,
    GenerationRequest,
    RequestOutput,
    RequestStats,
    TokenLogprobs,
)
from lorry_server.engine.stats import EngineStats, LoadTotals, MergeInfo, ResidentInfo
from lorry_server.registries import AdapterNames, Meaning, Published
from lorry_server.registries.following import Follower
from lorry_server.services.outputs import OutputDispatcher
from lorry_server.services.text import TextCodec

FINGERPRINT = "sha256:" + "b" * 64
CONTEXT_LENGTH = 200
MAX_RANK = 16


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    from lorry_bases import resolve

    return AutoTokenizer.from_pretrained(resolve("lorry-tiny"))


@pytest.fixture(scope="session")
def byte_fallback_tokenizer():
    """As sentencepiece makes them, without its library: ▁ for a space, and 256 bytes for what has no token."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"▁{word}" for word in ("", "the", "river", "a", "stone")]
    pieces += [*"abcdehinorstv", "er", "st", "on", "é"]
    model = models.BPE(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[("e", "r"), ("s", "t"), ("o", "n")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def codec(tokenizer):
    return TextCodec(tokenizer)


@pytest.fixture(scope="session")
def base(tokenizer, codec):
    return ServedBase(
        name="lorry-tiny",
        fingerprint=FINGERPRINT,
        architecture="LlamaForCausalLM",
        device="cpu",
        context_length=CONTEXT_LENGTH,
        vocab_size=len(tokenizer),
        eos_token_ids=frozenset({tokenizer.eos_token_id}),
        text=codec,
    )


def next_token(token_ids, adapter: str | None, vocab_size: int, seed: int | None = None) -> int:
    """What the fake base says next; `seed` where it draws."""
    told = f"{adapter}:{seed}:{','.join(map(str, token_ids[-3:]))}".encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:4], "big") % vocab_size


def logprob_of(token: int) -> float:
    """How likely the fake base finds a token, wherever it stands."""
    return -(1 + token % 7) / 4


def logprobs_at(token: int, top: int) -> TokenLogprobs:
    return TokenLogprobs(logprob_of(token), ((token, logprob_of(token)),) * top)


@dataclass
class Running:
    request: GenerationRequest
    arrival: float
    token_ids: list[int] = field(default_factory=list)


class FakeEngine:
    """`step_seconds` paces it; while `paused` is set, requests wait in the queue."""

    def __init__(
        self, sink, source, *, vocab_size: int, max_waiting: int = 8, step_seconds: float = 0.0
    ) -> None:
        self.failed: BaseException | None = None
        self.paused = threading.Event()
        self.cancelled: list[str] = []
        self.submitted: list[GenerationRequest] = []
        self.script: list[int] | None = (
            None  # what every request is answered with, instead of `next_token`
        )
        self.broken_by: Exception | None = None  # raised within the next step
        self.step_seconds = step_seconds
        self.merged: MergeInfo | None = None
        self._sink = sink
        self._source = source
        self._vocab_size = vocab_size
        self._max_waiting = max_waiting
        self._inbox: queue.Queue = queue.Queue()
        self._running: dict[str, Running] = {}
        self._residents: dict[str, ResidentInfo] = {}
        self._closed: LorryError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, *requests: GenerationRequest) -> None:
        if self._closed is not None:
            raise self._closed
        if self._inbox.qsize() + len(requests) > self._max_waiting:
            raise ResourceExhausted("full", reason="QUEUE_FULL", retry_after_seconds=1)
        self.submitted += requests
        for request in requests:
            self._inbox.put(Running(request, time.monotonic()))

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def load(self, digest: str, *, pin: bool = False) -> Future:
        return self._future(lambda: self._bring(digest, pin))

    def pin(self, digest: str, pinned: bool) -> Future:
        return self._future(lambda: self._change(digest, pinned))

    def unload(self, digest: str) -> Future:
        return self._future(lambda: self._drop(digest))

    def expel(self, digest: str, error: Exception) -> Future:
        return self._future(lambda: self._residents.pop(digest, None) and None)

    def merge(self, digest: str) -> Future:
        return self._future(lambda: self._fold(digest))

    def unmerge(self) -> Future:
        return self._future(lambda: setattr(self, "merged", None))

    def stats(self) -> EngineStats:
        return EngineStats(
            merge=self.merged,
            merges=int(self.merged is not None),
            waiting=self._inbox.qsize(),
            running=len(self._running),
            kv_blocks_used=len(self._running),
            kv_blocks_total=64,
            kv_block_size=16,
            slots_used=len(self._residents),
            slots_total=4,
            loads={"slot": LoadTotals(len(self._residents), 0.5, 1024)},
            residents=tuple(self._residents.values()),
        )

    def stop(self, *, drain_seconds: float) -> None:
        self._closed = Unavailable("stopping", reason="DRAINING")
        self._thread.join()

    def _run(self) -> None:
        error: LorryError = Unavailable("stopped", reason="DRAINING")
        try:
            while self._closed is None:
                self._step()
                time.sleep(self.step_seconds or 0.0005)
        except Exception as broken:
            self.failed = broken
            error = Unavailable("the engine failed", reason="ENGINE_FAILED")
        self._closed = error
        while not self._inbox.empty():
            left = self._inbox.get()
            self._running[left.request.request_id] = left
        self._sink([RequestOutput(request_id, error=error) for request_id in self._running])
        self._running.clear()

    def _step(self) -> None:
        if self.broken_by is not None:
            raise self.broken_by
        while not self.paused.is_set() and not self._inbox.empty():
            arrived = self._inbox.get()
            self._running[arrived.request.request_id] = arrived
        for request_id in list(self.cancelled):
            self._running.pop(request_id, None)
        outputs = [self._advance(running) for running in list(self._running.values())]
        for output in outputs:
            if output.finished:
                del self._running[output.request_id]
        if outputs:
            self._sink(outputs)

    def _advance(self, running: Running) -> RequestOutput:
        request, now = running.request, time.monotonic()
        if request.deadline is not None and now >= request.deadline:
            error = DeadlineExceeded("too late", reason="DEADLINE_EXCEEDED")
            return RequestOutput(request.request_id, error=error)
        try:
            if request.adapter is not None and request.adapter not in self._residents:
                self._bring(request.adapter, pin=False)
        except LorryError as error:
            return RequestOutput(request.request_id, error=error)
        prompt_logprobs = ()
        if request.scores is not None and not running.token_ids:
            scored = request.prompt_token_ids[request.scores.first :]
            prompt_logprobs = tuple(logprobs_at(token, request.scores.top) for token in scored)
        if request.sampling.max_tokens == 0:
            stats = RequestStats(len(request.prompt_token_ids), 3, 0, 0.01, 0.02, 0.03)
            embedding = () if request.pool_from is None else (3.0, float(request.pool_from), 4.0)
            return RequestOutput(
                request.request_id,
                finish_reason=FinishReason.LENGTH,
                stats=stats,
                prompt_logprobs=prompt_logprobs,
                embedding=embedding,
            )
        at = len(running.token_ids)
        if self.script is not None:
            token = self.script[at % len(self.script)]
        else:
            seed = request.sampling.seed if request.sampling.temperature else None
            seen = [*request.prompt_token_ids, *running.token_ids]
            token = next_token(seen, request.adapter, self._vocab_size, seed)
        running.token_ids.append(token)
        reason = None
        if token in request.sampling.stop_token_ids:
            reason = FinishReason.STOP
        elif len(running.token_ids) >= request.sampling.max_tokens:
            reason = FinishReason.LENGTH
        stats = RequestStats(
            len(request.prompt_token_ids), 3, len(running.token_ids), 0.01, 0.02, 0.03
        )
        asked = request.sampling.top_logprobs
        logprobs = () if asked is None else (logprobs_at(token, asked),)
        return RequestOutput(
            request.request_id,
            (token,),
            logprobs,
            reason,
            stats if reason else None,
            prompt_logprobs=prompt_logprobs,
        )

    def _future(self, act) -> Future:
        future: Future = Future()
        try:
            future.set_result(act())
        except LorryError as error:
            future.set_exception(error)
        return future

    def _bring(self, digest: str, pin: bool) -> ResidentInfo:
        recipe = self._source.recipe(digest)
        for needed in [digest] if recipe is None else [term.digest for term in recipe.terms]:
            self._source.fetch(needed)  # on this thread: nothing here is slow
        info = ResidentInfo(digest, "slot", 8, 4096, pin, 0, 0.25, time.time())
        self._residents[digest] = info
        return info

    def _change(self, digest: str, pinned: bool) -> ResidentInfo:
        if digest not in self._residents:
            raise FailedPrecondition("not there", reason="NOT_RESIDENT")
        self._residents[digest] = replace(self._residents[digest], pinned=pinned)
        return self._residents[digest]

    def _fold(self, digest: str) -> MergeInfo:
        self._bring(digest, pin=False)
        self._residents[digest] = replace(self._residents[digest], merged=True)
        self.merged = MergeInfo(digest, "operator", True, 1 << 20, 0.5)
        return self.merged

    def _drop(self, digest: str) -> None:
        known = self._residents.get(digest)
        if self._change(digest, known is not None and known.pinned).pinned:
            raise FailedPrecondition("pinned", reason="PINNED")
        del self._residents[digest]


class FakeRegistry:
    """Versions by reference, in memory, without events. `away` makes it unreachable, `hangs_for` too, but slowly."""

    name = "fake"

    def __init__(self) -> None:
        self.versions: dict[str, list[Published]] = {}
        self.aliases: dict[
            str, int | dict[int, int]
        ] = {}  # by "support@production": number, or weights by number
        self.blobs: dict[str, bytes] = {}
        self.bases: list[Base] = []
        self.away = False
        self.hangs_for = 0.0  # seconds that a look-up takes before it is given up
        self.fetches = 0
        self.resolves = 0
        self.resolving = 0
        self.most_resolving = 0

    def publish(
        self, name: str, *, base: str = FINGERPRINT, rank: int = 8, folder: Path | None = None
    ) -> Published:
        """Files that say nothing, or those of a folder."""
        versions = self.versions.setdefault(name, [])
        paths = ["adapter_config.json", "adapter_model.safetensors"]
        if folder is not None:
            paths = sorted(file.name for file in folder.iterdir())
        files = []
        for path in paths:
            data = f"{path} of {name}:{len(versions) + 1}".encode()
            if folder is not None:
                data = (folder / path).read_bytes()
            files.append(File(path, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)))
            self.blobs[files[-1].digest] = data
        digest = "sha256:" + hashlib.sha256(repr(files).encode()).hexdigest()
        version = Published(
            parse_reference(name).key,
            len(versions) + 1,
            digest,
            base,
            "some-base",
            rank,
            tuple(files),
        )
        versions.append(version)
        return version

    async def expand(self, reference: str) -> Meaning:
        self.resolving += 1
        self.most_resolving = max(self.most_resolving, self.resolving)
        self.resolves += 1
        try:
            if self.hangs_for:
                await asyncio.sleep(self.hangs_for)
                raise Unavailable("The registry hangs.", reason="REGISTRY_UNAVAILABLE")
            await asyncio.sleep(0)
            return self._expand(reference)
        finally:
            self.resolving -= 1

    def _expand(self, reference: str) -> Meaning:
        if self.away:
            raise Unavailable("The registry is away.", reason="REGISTRY_UNAVAILABLE")
        wanted = parse_reference(reference)
        versions = self.versions.get(str(wanted.key).removeprefix("default/"))
        if not versions:
            raise NotFound("no such adapter", reason="ADAPTER_NOT_FOUND")
        if wanted.alias is not None:
            shares = self.aliases.get(f"{wanted.key.adapter_id}@{wanted.alias}")
            if shares is None:
                raise NotFound("no such alias", reason="ALIAS_NOT_FOUND")
            shares = {shares: 1} if isinstance(shares, int) else shares
            meant = tuple((versions[number - 1], weight) for number, weight in shares.items())
            return Meaning(meant, reference)
        for version in reversed(versions):
            if wanted.number in (None, version.number) and wanted.digest in (None, version.digest):
                return Meaning(((version, 1),), reference)
        raise NotFound("no such version", reason="VERSION_NOT_FOUND")

    async def adapters_for(
        self, base_fingerprint: str, *, namespace: str | None, limit: int, page_token: str
    ) -> AdapterNames:
        keys = [parse_reference(name).key for name in sorted(self.versions)]
        among = [key for key in keys if namespace in (None, key.namespace)]
        rest = [key for key in among if str(key) > page_token]
        token = str(rest[limit - 1]) if len(rest) > limit else ""
        return AdapterNames(tuple(rest[:limit]), token)

    async def create_base(self, base: Base) -> None:
        self.bases.append(base)

    def fetch_blob(self, file: File, target: Path) -> None:
        if self.away:
            raise Unavailable("The registry is away.", reason="REGISTRY_UNAVAILABLE")
        self.fetches += 1
        target.write_bytes(self.blobs[file.digest])

    def interrupt(self) -> None:
        pass


@dataclass
class Node:
    """A server on a socket, with a client's stubs, and what is behind it."""

    host: GrpcHost
    services: Services
    engine: FakeEngine
    registry: FakeRegistry
    directory: AdapterDirectory
    dispatcher: OutputDispatcher
    collectors: CollectorRegistry
    channel: grpc.aio.Channel
    follower: Follower

    @property
    def inference(self) -> InferenceServiceStub:
        return InferenceServiceStub(self.channel)

    @property
    def admin(self) -> AdminServiceStub:
        return AdminServiceStub(self.channel)

    async def generate(self, request: pb.GenerateRequest, **options) -> list[pb.GenerateResponse]:
        return [response async for response in self.inference.Generate(request, **options)]

    async def refusal(self, request: pb.GenerateRequest, **options):
        """(code, ErrorInfo.reason, ErrorInfo.metadata) of what both forms answer, which must agree."""
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await self.generate(request, **options)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await self.inference.GenerateUnary(request, **options)
        assert explained(streamed.value) == explained(unary.value)
        return explained(unary.value)

    async def idle(self) -> None:
        """Returns once nothing of any request is left anywhere."""
        async with asyncio.timeout(5):
            await self.dispatcher.idle()
            while self.engine.stats().running or self.engine.stats().waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.collectors.get_sample_value(name, labels)


def explained(error: grpc.aio.AioRpcError):
    """An error as programs read it. Every one has an ErrorInfo of our domain."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()} without details: {error.details()}"
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.domain == "lorry"
    return error.code(), info.reason, dict(info.metadata)


@pytest.fixture
def start_node(base, tmp_path):
    """Starts a server; options go to the fake engine. The events of a registry that has some are followed."""

    @asynccontextmanager
    async def start(
        served: ServedBase = base,
        *,
        registry=None,
        max_requests: int = 1000,
        gate=None,
        make_engine=FakeEngine,
        **engine_options,
    ):
        follows = registry is not None
        registry = registry or FakeRegistry()
        cache = AdapterCache(tmp_path / "cache", registry)
        follower = Follower(registry)
        directory = AdapterDirectory(
            registry, served, max_rank=MAX_RANK, cache=cache, follower=follower
        )
        dispatcher = OutputDispatcher(asyncio.get_running_loop())
        engine = make_engine(dispatcher.sink, cache, vocab_size=served.vocab_size, **engine_options)
        collectors = CollectorRegistry()
        services = build_services(
            base=served,
            engine=engine,
            adapters=directory,
            cache=cache,
            dispatcher=dispatcher,
            max_rank=MAX_RANK,
            max_requests=max_requests,
            collectors=collectors,
            follower=follower,
        )
        host = create_server("127.0.0.1:0", lambda _: SERVICE_NAMES, gate=gate)
        services.add_to(host.server)
        engine.start()
        await host.start()
        follower.on_connection = lambda connected: host.set_part("registry", connected)
        following = asyncio.create_task(follower.run()) if follows else None
        async with grpc.aio.insecure_channel(host.address) as channel:
            yield Node(
                host,
                services,
                engine,
                registry,
                directory,
                dispatcher,
                collectors,
                channel,
                follower,
            )
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        await host.stop(0.5)
        engine.stop(drain_seconds=0)
        services.close()

    return start


@pytest.fixture(scope="session")
def tiny():
    """lorry-tiny, loaded, as nobody but its user runs it: an engine changes the model that it is given."""
    from lorry_bases.load import load_base

    return lambda: load_base("lorry-tiny", device="cpu")


@pytest.fixture
def start_real(start_node, base, tiny):
    """Starts a server with the real engine; options are the engine's."""
    from lorry_bases.shapes import linear_shapes
    from lorry_server.engine.config import EngineConfig
    from lorry_server.engine.engine import Engine

    def start(**config):
        loaded = tiny()
        shapes = linear_shapes(loaded.model)
        served = replace(base, vocab_size=loaded.model.get_input_embeddings().num_embeddings)

        def make_engine(sink, cache, *, vocab_size):
            return Engine(
                loaded.model,
                EngineConfig(**{"slots": 4, "max_rank": MAX_RANK, "max_sequences": 16, **config}),
                source=cache,
                sink=sink,
                linear_shapes=shapes,
                context_length=served.context_length,
            )

        return start_node(served, make_engine=make_engine)

    return start


@pytest.fixture
async def node(start_node):
    async with start_node() as running:
        yield running


@pytest.fixture
def make_adapter(tmp_path_factory):
    """Writes a PEFT adapter folder that acts on the given linear layers: {path: (in, out)}."""
    return lambda shapes, **options: write_adapter(
        tmp_path_factory.mktemp("adapter"), shapes, **options
    )


def write_adapter(
    folder: Path, shapes: dict[str, tuple[int, int]], *, rank: int, seed: int, size: float = 0.3
) -> Path:
    from safetensors.numpy import save_file

    random = np.random.default_rng(seed)
    tensors = {}
    for path, (num_in, num_out) in shapes.items():
        prefix = f"base_model.model.{path}"
        tensors[f"{prefix}.lora_A.weight"] = size * random.standard_normal(
            (rank, num_in), np.float32
        )
        tensors[f"{prefix}.lora_B.weight"] = size * random.standard_normal(
            (num_out, rank), np.float32
        )
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({path.rpartition(".")[2] for path in shapes}),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
