"""The engine: one thread that decides, does and accounts, step after step, and a door that any thread may knock at.

Everything that reaches the engine from outside (requests, cancellations, what the loader brought, an
operator's wish) is a message in its inbox, handled between two steps; so no state here has a lock.
If a step fails, every waiting request is told, the engine stays down and says so in `failed`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedModel

from lorry_bases.shapes import ParameterShape
from lorry_registry.errors import (
    Internal,
    InvalidArgument,
    LorryError,
    ResourceExhausted,
    Unavailable,
)
from lorry_server.engine.automerge import AutoMerge
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.encoder_runner import EncoderRunner
from lorry_server.engine.loader import AdapterLoader, AdapterSource
from lorry_server.engine.loader_events import LoaderEvent, MergeEvent, MergeFailed, MergeReady
from lorry_server.engine.merger import Merger
from lorry_server.engine.model_runner import ModelRunner
from lorry_server.engine.request import GenerationRequest, RequestOutput
from lorry_server.engine.residency import Residency
from lorry_server.engine.residents import Residents
from lorry_server.engine.runner import Runner
from lorry_server.engine.scheduler import Scheduler
from lorry_server.engine.sequence import Sequence
from lorry_server.engine.stats import EngineStats, MergeInfo, ResidentInfo

log = logging.getLogger(__name__)

Sink = Callable[[Items[RequestOutput]], None]
Message = Callable[[], None]
T = TypeVar("T")

SNAPSHOT_SECONDS = 0.1  # how old a snapshot may be while the engine is busy


class Engine:
    """Generates for many requests at once over one base.

    `submit`, `cancel`, `load`, `pin`, `unload`, `expel`, `merge`, `unmerge` and `stats` may be called from any thread.
    `sink` receives what a step brought, on the engine's thread; it must not block. If it raises, the engine fails and
    hands it the same once more.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        *,
        source: AdapterSource,
        sink: Sink,
        linear_shapes: Mapping[str, tuple[int, int]],
        context_length: int,
        encoders_parameters: Items[ParameterShape] | None = None,
    ) -> None:
        """`encoders_parameters` are there where the model is an encoder: what adapters may change or bring."""
        self.config = config
        self.context_length = context_length
        self.failed: BaseException | None = None
        self._sink = sink
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._runner: Runner = (
            ModelRunner(model, config, linear_shapes, context_length)
            if encoders_parameters is None
            else EncoderRunner(model, config, linear_shapes, encoders_parameters, context_length)
        )
        host_memory_bytes = 0 if model.device.type == "cpu" else config.host_memory_bytes
        self._loader = AdapterLoader(
            source,
            self._runner.slots,
            self._runner.base,
            lambda event: self._inbox.put(lambda: self._on_event(event)),
            host_memory_bytes=host_memory_bytes,
            merge_memory_bytes=config.merge_memory_bytes,
        )
        self._memory = self._runner.memory
        self._residency = Residency(config.slots)
        self._most_tokens = min(context_length, self._memory.most_tokens)
        self._scheduler = Scheduler(config, self._memory, self._residency, self._most_tokens)
        self._residents = Residents(
            self._residency,
            self._scheduler,
            self._loader,
            self._deliver,
            self._runner.measure,
        )
        self._merger = Merger(
            self._residency,
            self._scheduler,
            self._residents,
            self._loader,
            switch=self._runner.switch,
            deliver=self._deliver,
            auto=AutoMerge() if config.auto_merge else None,
        )
        self._outputs: list[RequestOutput] = []
        self._num_submitted = 0  # still in the inbox; guarded by _door
        self._door = threading.Lock()
        self._closed: LorryError | None = Unavailable(
            "The engine has not started yet; retry in a moment.", reason="ENGINE_STARTING"
        )
        self._stop_at: float | None = None
        self._steps = 0
        self._snapshot_due = 0.0
        self._stats = EngineStats(slots_total=config.slots, kv_blocks_total=self._memory.num_blocks)
        self._thread = threading.Thread(target=self._run, name="lorry-engine", daemon=True)

    # From any thread.

    def start(self) -> None:
        with self._door:
            self._closed = None
        self._thread.start()

    def submit(self, *requests: GenerationRequest) -> None:
        """Queues requests, all of them or none; their outputs reach the sink.

        Raises ResourceExhausted where the queue is full, Unavailable where the engine takes no
        requests, InvalidArgument where a sequence can never fit.
        """
        for request in requests:
            self._check_fits(request)
        with self._door:
            if self._closed is not None:
                raise self._closed
            num_queued = self._num_submitted + len(self._scheduler.waiting)
            if num_queued + len(requests) > self.config.max_waiting:
                raise ResourceExhausted(
                    f"The queue holds {num_queued} sequences, and no more than {self.config.max_waiting}; "
                    f"there is no room for {len(requests)} more. Retry in a second, or add a server.",
                    reason="QUEUE_FULL",
                    retry_after_seconds=1,
                    max_waiting=self.config.max_waiting,
                )
            self._num_submitted += len(requests)
            arrival = time.monotonic()
            for request in requests:
                self._inbox.put(partial(self._add, request, arrival))

    def cancel(self, request_id: str) -> None:
        """Ends a request without a further output; does nothing where it has ended."""
        self._inbox.put(lambda: self._scheduler.cancel(request_id))

    def load(self, digest: str, *, pin: bool = False) -> Future[ResidentInfo]:
        """Brings an adapter into a slot. The future raises what keeps it out."""
        return self._ask(lambda future: self._residents.load(digest, pin, future))

    def pin(self, digest: str, pinned: bool) -> Future[ResidentInfo]:
        """Pins or unpins a resident adapter; FailedPrecondition where it is not resident."""
        return self._ask(lambda future: self._residents.pin(digest, pinned, future))

    def unload(self, digest: str) -> Future[None]:
        """Takes an adapter out of its slot once its running sequences have ended."""
        return self._ask(lambda future: self._residents.unload(digest, future))

    def expel(self, digest: str, error: Exception) -> Future[None]:
        """Takes an adapter out of its slot and out of host memory, pinned, merged or not, once nothing runs with it.

        Whoever wished for it in a slot, or merged, gets `error`.
        """
        return self._ask(lambda future: self._expel(digest, error, future))

    def export(self, digest: str, folder: Path) -> Future[None]:
        """Writes a composition into a folder as LoRA. The future raises what is in the way."""
        return self._ask(lambda future: self._loader.export(digest, folder, future))

    def merge(self, digest: str) -> Future[MergeInfo]:
        """Folds an adapter into copies of the weights, until another order. The future raises what is in the way."""
        return self._ask(lambda future: self._merger.merge(digest, future))

    def unmerge(self) -> Future[None]:
        """Drops what is merged; what requests ask for may be merged again."""
        return self._ask(self._merger.unmerge)

    def stats(self) -> EngineStats:
        """The engine as it was after a step, at most `SNAPSHOT_SECONDS` or one step ago."""
        return self._stats

    def stop(self, *, drain_seconds: float) -> None:
        """Refuses new requests, lets what runs finish within `drain_seconds`, answers the rest, joins the thread."""
        with self._door:
            self._closed = Unavailable(
                "The server is shutting down; ask another one.", reason="DRAINING"
            )
        if self._thread.is_alive():
            self._inbox.put(lambda: self._stop_by(time.monotonic() + drain_seconds))
            self._thread.join()
        self._loader.stop()

    # On the engine's thread.

    def _run(self) -> None:
        try:
            while not self._finished():
                self._receive(wait=not self._has_work())
                self._step()
        except BaseException as error:
            log.exception("the engine failed after %d steps", self._steps)
            self.failed = error
            self._close(
                Internal(
                    f"The engine failed ({type(error).__name__}: {error}); the server must be started again.",
                    reason="ENGINE_FAILED",
                )
            )
        else:
            self._close(
                Unavailable("The server shut down before the request was done.", reason="DRAINING")
            )

    def _step(self) -> None:
        plan = self._scheduler.schedule(time.monotonic())
        self._outputs += plan.outputs
        for digest in plan.fetches:
            self._loader.fetch(digest)
        for load in plan.loads:
            self._loader.load(load)
        if plan.chunks:
            sampled = self._runner.run(plan.chunks)
            self._outputs += self._scheduler.account(plan, sampled, time.monotonic())
            self._merger.account(plan.chunks)
            self._steps += 1
        self._residents.settle()
        self._merger.settle()
        self._publish()

    def _receive(self, *, wait: bool) -> None:
        try:
            self._inbox.get(timeout=self._patience() if wait else 0)()
            while True:
                self._inbox.get_nowait()()
        except queue.Empty:
            pass

    def _patience(self) -> float:
        """How long to sleep without a message: deadlines and the end of a drain are not messages."""
        pending = self._scheduler.waiting or self._scheduler.wishes or self._stop_at is not None
        return 0.02 if pending else 1.0

    def _has_work(self) -> bool:
        return bool(self._scheduler.running or self._outputs)

    def _finished(self) -> bool:
        if self._stop_at is None:
            return False
        busy = self._scheduler.running or self._scheduler.waiting or not self._inbox.empty()
        return not busy or time.monotonic() >= self._stop_at

    def _expel(self, digest: str, error: Exception, future: Future[None]) -> None:
        self._merger.expel(digest, error)
        self._residents.expel(digest, error, future)

    def _on_event(self, event: LoaderEvent | MergeEvent) -> None:
        if isinstance(event, MergeReady | MergeFailed):
            self._merger.on_event(event)
        else:
            self._residents.on_event(event)

    def _add(self, request: GenerationRequest, arrival: float) -> None:
        with self._door:
            self._num_submitted -= 1
            self._scheduler.add(Sequence(request, arrival, list(request.prompt_token_ids)))

    def _deliver(self, outputs: Items[RequestOutput]) -> None:
        self._outputs += outputs

    def _publish(self) -> None:
        now = time.monotonic()
        if not self._scheduler.running or now >= self._snapshot_due:
            self._stats = self._snapshot()
            self._snapshot_due = now + SNAPSHOT_SECONDS
        if self._outputs:
            self._sink(self._outputs)
            self._outputs = []  # not before the sink has them

    def _close(self, error: LorryError) -> None:
        """Answers everybody who waits, and whoever comes later. What fails here keeps nobody else from an answer."""
        with self._door:
            self._closed = error
        while not self._inbox.empty():
            with self._logged("a message"):
                self._inbox.get_nowait()()
        self._residents.fail_all(error)
        self._merger.fail_all(error)
        with self._logged("the last outputs"):
            self._outputs = [*self._outputs, *self._scheduler.fail_all(error)]
            self._publish()

    @contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            log.exception("%s could not be handled while the engine closed", what)

    def _stop_by(self, moment: float) -> None:
        self._stop_at = moment

    def _ask(self, message: Callable[[Future[T]], None]) -> Future[T]:
        future: Future[T] = Future()
        with self._door:
            if self._closed is not None:
                future.set_exception(self._closed)
            else:
                self._inbox.put(lambda: self._hear(message, future))
        return future

    def _hear(self, message: Callable[[Future[T]], None], future: Future[T]) -> None:
        if future.set_running_or_notify_cancel():  # from here on nobody can cancel it
            message(future)

    def _check_fits(self, request: GenerationRequest) -> None:
        most = len(request.prompt_token_ids) + request.sampling.max_tokens
        if not request.prompt_token_ids or most > self._most_tokens:
            raise InvalidArgument(
                f"The prompt has {len(request.prompt_token_ids)} tokens and max_tokens is "
                f"{request.sampling.max_tokens}; together they must be between 1 and "
                f"{self._most_tokens}.",
                reason="SEQUENCE_TOO_LONG",
                prompt_tokens=len(request.prompt_token_ids),
                max_tokens=request.sampling.max_tokens,
                limit=self._most_tokens,
            )

    def _snapshot(self) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            waiting=len(scheduler.waiting),
            waiting_for_adapter=scheduler.num_waiting_for_adapter,
            running=len(scheduler.running),
            kv_blocks_used=self._memory.num_used_blocks,
            kv_blocks_total=self._memory.num_blocks,
            kv_block_size=self.config.block_size,
            slots_used=self._residency.num_used,
            slots_total=self.config.slots,
            prefix_query_tokens=self._memory.query_tokens,
            prefix_hit_tokens=self._memory.hit_tokens,
            preemptions=scheduler.preemptions,
            steps=self._steps,
            evictions=self._residency.evictions,
            loads=self._residents.totals(),
            residents=self._residents.infos(),
            merge=self._merger.info,
            merges=self._merger.merges,
        )
