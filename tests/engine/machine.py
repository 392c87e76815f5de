"""A scheduler with honest fakes around it: the KV memory, the slots, the loader and the base.

The fake KV memory holds, at each place, a hash of everything up to that token and of the adapter. The fake base
reads them through the block table before it says the next token, as attention does; so a block that was shared,
reused or freed wrongly shows at once, and not only in a book. The fake slots hold digests and are read the same
way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from lorry_server.engine.block_manager import BlockManager
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.plan import Chunk, Sampled, StepPlan
from lorry_server.engine.request import (
    FinishReason,
    GenerationRequest,
    RequestOutput,
    SamplingParams,
)
from lorry_server.engine.residency import Residency, SlotLoad
from lorry_server.engine.scheduler import Scheduler
from lorry_server.engine.sequence import Sequence, VirtualPlaces

VOCAB_SIZE = 50


def sequence(
    name: str,
    prompt: Iterable[int],
    *,
    adapter: str | None = None,
    max_tokens: int = 8,
    stop: Iterable[int] = (),
    deadline: float | None = None,
    arrival: float = 0.0,
) -> Sequence:
    ids = tuple(prompt)
    sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=frozenset(stop))
    request = GenerationRequest(name, ids, sampling, adapter, deadline)
    return Sequence(request, arrival, list(ids))


def written(previous: bytes, token_id: int) -> bytes:
    """What the cache holds for a token, given what it holds for the one before it."""
    number = token_id.to_bytes(4, "big", signed=True)
    return hashlib.blake2b(previous + number, digest_size=8).digest()


def first(adapter: str | None) -> bytes:
    return hashlib.blake2b(repr(adapter).encode(), digest_size=8).digest()


def continuation(sequence: Sequence, context_length: int = 1 << 30) -> list[int]:
    """What the fake base says to a request that has the machine to itself."""
    request, state, said = sequence.request, first(sequence.adapter), list[int]()
    num_virtual = sequence.virtual.count
    for token_id in (*range(-1, -1 - num_virtual, -1), *request.prompt_token_ids):
        state = written(state, token_id)
    while True:
        token_id = int.from_bytes(state, "big") % VOCAB_SIZE
        said.append(token_id)
        state = written(state, token_id)
        done = len(said) >= request.sampling.max_tokens
        if done or token_id in request.sampling.stop_token_ids:
            return said
        if num_virtual + len(request.prompt_token_ids) + len(said) >= context_length:
            return said


class Machine:
    """Steps a scheduler by hand, and asserts what must hold in every step.

    An adapter takes `steps_to_fetch` steps to reach the disk and `steps_to_load` to reach its slot; those in
    `unfetchable` and `unloadable` never do.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        context_length: int = 1 << 30,
        steps_to_fetch: int = 1,
        steps_to_load: int = 1,
        **config: int,
    ) -> None:
        settings = {"slots": 2, "max_sequences": 8, "max_batched_tokens": 16, **config}
        self.config = EngineConfig(block_size=block_size, kv_blocks=num_blocks, **settings)
        self.blocks = BlockManager(num_blocks, block_size)
        self.residency = Residency(self.config.slots)
        self.scheduler = Scheduler(self.config, self.blocks, self.residency, context_length)
        self.now = 0.0
        self.said: dict[str, list[int]] = {}
        self.ended: dict[str, RequestOutput] = {}
        self.fetches: list[str] = []  # all that were asked for
        self.loads: list[SlotLoad] = []
        self.virtual: dict[str, VirtualPlaces] = {}  # what adapters put before their sequences
        self.unfetchable: set[str] = set()
        self.unloadable: set[str] = set()
        self.steps_to_fetch = steps_to_fetch
        self.steps_to_load = steps_to_load
        self._fetching: list[tuple[int, str]] = []  # (steps left, digest)
        self._loading: list[tuple[int, SlotLoad]] = []
        self._slots: dict[int, str] = {}  # what is in the slots' memory
        self._kv: dict[int, bytes] = {}  # place -> what the cache holds there

    # The way in.

    def add(self, *sequences: Sequence) -> None:
        for each in sequences:
            self.said[each.request.request_id] = []
            self.scheduler.add(each)

    def make_resident(self, *digests: str) -> None:
        """Loads adapters before anything else happens."""
        for digest in digests:
            self.scheduler.wishes[digest] = None
            while self.scheduler.wishes:
                self.step()

    # A step.

    def step(self) -> StepPlan:
        self._move_adapters()
        plan = self.scheduler.schedule(self.now)
        self._check_plan(plan)
        self.fetches += plan.fetches
        self._fetching += [(self.steps_to_fetch, digest) for digest in plan.fetches]
        for load in plan.loads:
            self.loads.append(load)
            self._slots.pop(load.slot, None)
            self._loading.append((self.steps_to_load, load))
        self._receive(plan.outputs)
        sampled = self._forward(plan.chunks)
        self._receive(self.scheduler.account(plan, sampled, self.now))
        self.check_integrity()
        self.now += 1.0
        return plan

    def run(self, steps: int = 2000) -> None:
        """Steps until nothing is left to do."""
        for _ in range(steps):
            if not self.scheduler.waiting and not self.scheduler.running:
                return
            self.step()
        raise AssertionError(f"not done after {steps} steps: {self.scheduler.waiting}")

    def check_integrity(self) -> None:
        scheduler = self.scheduler
        self.blocks.check_integrity(scheduler.running)
        self.residency.check_integrity()
        assert not any(s.block_table for s in scheduler.waiting), "a waiting sequence holds KV"
        assert len(scheduler.running) <= self.config.max_sequences
        for resident in self.residency.residents():
            holders = sum(s.adapter == resident.digest for s in scheduler.running)
            assert resident.references == holders

    def check_idle(self) -> None:
        """Nothing of any request is left anywhere."""
        self.check_integrity()
        assert not self.scheduler.running
        assert not self.scheduler.waiting
        assert not self.scheduler.in_flight()
        assert self.blocks.num_used_blocks == 0
        assert all(resident.references == 0 for resident in self.residency.residents())

    # The fakes.

    def _check_plan(self, plan: StepPlan) -> None:
        assert sum(chunk.num_tokens for chunk in plan.chunks) <= self.config.max_batched_tokens
        chosen = [chunk.sequence for chunk in plan.chunks]
        assert len(set(map(id, chosen))) == len(chosen)
        assert all(chunk.num_tokens > 0 for chunk in plan.chunks)
        for each in self.scheduler.running:
            assert each.num_uncomputed_tokens > 1 or each in chosen, "a decoding one was left out"

    def _move_adapters(self) -> None:
        self._fetching = [(left - 1, digest) for left, digest in self._fetching]
        for digest in [digest for left, digest in self._fetching if left <= 0]:
            if digest in self.unfetchable:
                self._receive(self.scheduler.fetch_failed(digest, OSError(digest)))
            else:
                self.scheduler.fetched(digest, self.virtual.get(digest, VirtualPlaces()))
        self._fetching = [(left, digest) for left, digest in self._fetching if left > 0]
        self._loading = [(left - 1, load) for left, load in self._loading]
        for load in [load for left, load in self._loading if left <= 0]:
            if load.digest in self.unloadable:
                self.residency.fail_load(load.digest)
                self._receive(self.scheduler.fetch_failed(load.digest, MemoryError(load.digest)))
            else:
                self._slots[load.slot] = load.digest
                self.residency.finish_load(load.digest)
        self._loading = [(left, load) for left, load in self._loading if left > 0]

    def _forward(self, chunks: list[Chunk]) -> list[Sampled]:
        for chunk in chunks:  # keys and values are written before any are read
            start, virtual = chunk.sequence.num_computed_tokens, chunk.sequence.virtual
            computed = chunk.end - chunk.num_tokens
            assert not virtual.injected or computed >= virtual.count, (
                "a forward pass has no such tokens"
            )
            for position, token_id in enumerate(chunk.sequence.ids(start, chunk.end), start):
                before = self._read(chunk.sequence, position - 1)
                self._kv[self._place(chunk.sequence, position)] = written(before, token_id)
        return [Sampled(self._next_token(chunk)) for chunk in chunks if chunk.samples]

    def _next_token(self, chunk: Chunk) -> int:
        if chunk.slot is not None:
            assert self._slots[chunk.slot] == chunk.sequence.adapter, "another adapter's slot"
        state = first(chunk.sequence.adapter)
        for position, token_id in enumerate(chunk.sequence.ids(0, chunk.sequence.num_tokens)):
            state = written(state, token_id)
            assert self._read(chunk.sequence, position) == state, "another sequence's KV"
        return int.from_bytes(state, "big") % VOCAB_SIZE

    def _read(self, sequence: Sequence, position: int) -> bytes:
        return (
            self._kv[self._place(sequence, position)] if position >= 0 else first(sequence.adapter)
        )

    def _place(self, sequence: Sequence, position: int) -> int:
        size = self.config.block_size
        return sequence.block_table[position // size] * size + position % size

    def _receive(self, outputs: Iterable[RequestOutput]) -> None:
        for output in outputs:
            assert output.request_id not in self.ended, "something follows the last output"
            self.said[output.request_id] += output.token_ids
            if output.finished:
                self.ended[output.request_id] = output

    def errors(self) -> dict[str, Exception]:
        return {name: out.error for name, out in self.ended.items() if out.error is not None}

    def reasons(self) -> dict[str, FinishReason | None]:
        return {name: output.finish_reason for name, output in self.ended.items()}
