"""Which sequences run in a step and for how many tokens: *decide* (`schedule`) and *account* (`account`).

First come, first served, with two exceptions that keep the machine busy: a request whose adapter is not in a slot yet
does not hold up those behind it, and a prompt that is longer than a step's budget is prefilled in chunks between the
others' tokens. Where KV memory runs out, the youngest running sequence gives its blocks back and starts again later.
Knows no torch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence as Items

from lorry_registry.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LorryError,
    ResourceExhausted,
)
from lorry_server.engine.block_manager import Memory
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.plan import Chunk, Sampled, StepPlan
from lorry_server.engine.request import FinishReason, RequestOutput
from lorry_server.engine.residency import Residency
from lorry_server.engine.sequence import (
    NO_VIRTUAL_PLACES,
    Sequence,
    SequenceState,
    VirtualPlaces,
)


class Scheduler:
    """The queues. Not thread-safe: it lives on the engine's thread."""

    def __init__(
        self,
        config: EngineConfig,
        memory: Memory,
        residency: Residency,
        context_length: int,
    ) -> None:
        self.config = config
        self.memory = memory
        self.residency = residency
        self.context_length = context_length
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest admission first
        self.preemptions = 0
        self._sequences: dict[str, Sequence] = {}
        self.wishes: dict[str, None] = {}  # adapters that an operator wants in a slot, oldest first
        self._refused_wishes: list[str] = []
        self.merged: str | None = None  # the adapter that is folded into the weights
        self.merge_wish: str | None = None  # what the oldest request wants merged that waits for it
        self.starved = False  # whether a request waits for a slot and none is to be had
        self._fetching: set[str] = set()
        self._fetched: dict[str, VirtualPlaces] = {}

    # The way in and the ways out.

    def add(self, sequence: Sequence) -> None:
        self._sequences[sequence.request.request_id] = sequence
        self.waiting.append(sequence)

    def cancel(self, request_id: str) -> None:
        """Ends a sequence without a word; one that has ended already is none of our business."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._end(sequence)

    def fail_all(self, error: Exception) -> list[RequestOutput]:
        return [self._fail(sequence, error) for sequence in list(self._sequences.values())]

    def fetched(self, digest: str, virtual: VirtualPlaces = NO_VIRTUAL_PLACES) -> None:
        """The adapter is in host memory, and with it is known what it puts before its sequences."""
        self._fetching.discard(digest)
        self._fetched[digest] = virtual

    def fetch_failed(self, digest: str, error: Exception) -> list[RequestOutput]:
        """Nobody can run with the adapter: those who wait for it are told."""
        self._fetching.discard(digest)
        self._fetched.pop(digest, None)
        self.wishes.pop(digest, None)
        waiting = [sequence for sequence in self.waiting if sequence.adapter == digest]
        return [self._fail(sequence, error) for sequence in waiting]

    def forget(self, digest: str) -> None:
        """An adapter that is in no slot is fetched anew when it is asked for."""
        self._fetched.pop(digest, None)

    def merge_failed(self, digest: str, error: Exception) -> list[RequestOutput]:
        """The adapter cannot be merged: those who wait for that are told."""
        waiting = [s for s in self.waiting if s.adapter == digest and self._waits_for_merge(s)]
        return [self._fail(sequence, error) for sequence in waiting]

    def runs_merged(self, digest: str) -> bool:
        """Whether a request that runs has asked for this adapter to be merged."""
        return any(s.adapter == digest and s.request.merged for s in self.running)

    def take_refused_wishes(self) -> list[str]:
        """The wishes for which no slot was to be had since the last call."""
        refused, self._refused_wishes = self._refused_wishes, []
        return refused

    def in_flight(self) -> Counter[str]:
        """How many requests run with each adapter or wait for it."""
        return Counter(s.adapter for s in self._sequences.values() if s.adapter is not None)

    @property
    def num_waiting_for_adapter(self) -> int:
        return sum(
            s.adapter is not None and not self.residency.can_acquire(s.adapter)
            for s in self.waiting
        )

    # Decide.

    def schedule(self, now: float) -> StepPlan:
        plan = StepPlan()
        self._expire(plan, now)
        granted = self._grant_wishes(plan)
        budget = self._continue_running(plan)
        self._admit_waiting(plan, budget, granted, now)
        return plan

    def _expire(self, plan: StepPlan, now: float) -> None:
        for sequence in list(self._sequences.values()):
            deadline = sequence.request.deadline
            if deadline is not None and now >= deadline:
                error = DeadlineExceeded(
                    f"The deadline passed {now - sequence.arrival:.3f} s after the request's arrival, with "
                    f"{sequence.num_output_tokens} tokens generated; allow more time or fewer tokens.",
                    reason="DEADLINE_EXCEEDED",
                    completion_tokens=sequence.num_output_tokens,
                )
                plan.outputs.append(self._fail(sequence, error))

    def _grant_wishes(self, plan: StepPlan) -> set[str]:
        """Brings what operators wish for; returns what is there, which keeps its slot for this step."""
        granted: set[str] = set()
        for digest in list(self.wishes):
            if self.residency.can_acquire(digest):
                del self.wishes[digest]
                granted.add(digest)
            elif not self._bring(digest, plan, set()):
                del self.wishes[digest]
                self._refused_wishes.append(digest)
        return granted

    def _continue_running(self, plan: StepPlan) -> int:
        """Schedules what runs already; returns the tokens that are left of the budget."""
        num_decoding = sum(sequence.num_uncomputed_tokens == 1 for sequence in self.running)
        prefill_budget = max(0, self.config.max_batched_tokens - num_decoding)
        scheduled = 0
        while scheduled < len(self.running):
            sequence = self.running[scheduled]
            num_tokens = sequence.num_uncomputed_tokens
            if num_tokens > 1:
                num_tokens = min(num_tokens, prefill_budget)
                prefill_budget -= num_tokens
            while not self.memory.can_allocate(sequence, num_tokens):
                # The youngest one is never among those that are scheduled already, for they are older.
                if self._preempt(self.running[-1]) is sequence:
                    break
            else:
                scheduled += 1
                if num_tokens > 0:
                    self.memory.allocate(sequence, num_tokens)
                    plan.chunks.append(Chunk(sequence, num_tokens, self._slot(sequence)))
        return prefill_budget

    def _admit_waiting(self, plan: StepPlan, budget: int, granted: set[str], now: float) -> None:
        room = True
        wanted = set(granted)  # by operators, and by those that are older than the one at hand
        blocked: list[Sequence] = []  # wait for a slot, and none is to be had
        wanted_before_blocked: set[str] = set()
        self.merge_wish = None
        for sequence in list(self.waiting):
            if self._must_wait_for_prefix(sequence):
                continue
            digest = sequence.adapter
            waits_for_merge = self._waits_for_merge(sequence)
            if waits_for_merge and self.merge_wish is None:
                self.merge_wish = digest
            if digest is not None and not self.residency.can_acquire(digest):
                if self._bring(digest, plan, wanted):
                    wanted.add(digest)
                else:
                    if not blocked:
                        wanted_before_blocked = set(wanted)
                    blocked.append(sequence)
                continue
            if digest is not None:
                wanted.add(digest)
                sequence.virtual = self._fetched[digest]
                if sequence.num_tokens > self._most_tokens(sequence):
                    plan.outputs.append(self._fail(sequence, self._too_long(sequence)))
                    continue
            if waits_for_merge:
                continue
            if not room or budget <= 0 or len(self.running) >= self.config.max_sequences:
                room = False
                continue
            num_tokens = self.memory.admit(sequence, budget)
            if num_tokens is None:
                room = False
                continue
            self._start(sequence, now)
            injected = sequence.num_uninjected_tokens
            plan.chunks.append(Chunk(sequence, num_tokens, self._slot(sequence), injected))
            budget -= num_tokens
            for other in blocked:
                other.overtaken += 1
        self._unblock(plan, blocked, wanted_before_blocked)

    def _must_wait_for_prefix(self, sequence: Sequence) -> bool:
        """Whether the one that it follows is still computing what they share; that one never follows it in turn."""
        leader = self._sequences.get(sequence.request.follows or "")
        return leader is not None and leader.first_token is None

    def _waits_for_merge(self, sequence: Sequence) -> bool:
        """Whether a request wants its adapter merged, and it is not, or an older request wants another one.

        One that has run once goes on as it can.
        """
        if not sequence.request.merged or sequence.first_scheduled is not None:
            return False
        return sequence.adapter != self.merged or self.merge_wish not in (None, self.merged)

    def _bring(self, digest: str, plan: StepPlan, wanted: set[str]) -> bool:
        """Moves an adapter one tier up; returns whether it is on its way."""
        if digest in self._fetching or self.residency.get(digest) is not None:
            return True
        if digest not in self._fetched:
            self._fetching.add(digest)
            plan.fetches.append(digest)
            return True
        load = self.residency.begin_load(digest, protected=wanted)
        if load is None:
            return False
        plan.loads.append(load)
        return True

    def _unblock(self, plan: StepPlan, blocked: list[Sequence], wanted: set[str]) -> None:
        self.starved = bool(blocked)
        if blocked and self.residency.all_pinned:
            for sequence in blocked:
                error = ResourceExhausted(
                    f"Adapter {sequence.adapter} needs a slot, but all {self.residency.num_slots} are pinned "
                    "or merged; unpin one or start the server with more --slots.",
                    reason="SLOTS_PINNED",
                    digest=sequence.adapter,
                    slots=self.residency.num_slots,
                )
                plan.outputs.append(self._fail(sequence, error))
        elif blocked and blocked[0].overtaken > self.config.max_overtakes:
            self.residency.drain_for_another(protected=wanted)
        else:
            self.residency.stop_draining()

    # Account.

    def account(
        self, plan: StepPlan, sampled: Items[Sampled | None], now: float
    ) -> list[RequestOutput]:
        """Books a step that has run.

        `sampled` has one for each chunk that yields something, in their order; None where the model gave no numbers.
        """
        outputs: list[RequestOutput] = []
        results = iter(sampled)
        for chunk in plan.chunks:
            sequence = chunk.sequence
            brought = next(results) if chunk.yields else Sampled()
            sequence.num_computed_tokens = chunk.end
            self.memory.commit(sequence)
            if brought is None:
                outputs.append(self._fail(sequence, self._not_finite(sequence)))
            elif brought.error is not None:
                outputs.append(self._fail(sequence, brought.error))
            else:
                sequence.note(brought.scores, brought.pooled, chunk.pooled_at)
                if chunk.completes or brought.scores:
                    outputs.append(self._advance(sequence, brought, chunk.completes, now))
        return outputs

    def _advance(
        self, sequence: Sequence, brought: Sampled, completes: bool, now: float
    ) -> RequestOutput:
        token_ids = () if brought.token_id is None else (brought.token_id,)
        sequence.token_ids += token_ids
        if completes and sequence.first_token is None:
            sequence.first_token = now
        reason = self._finish_reason(sequence) if completes else None
        constraint = sequence.request.constraint
        if reason is not None:
            self._end(sequence)
        elif token_ids and constraint is not None:
            try:
                constraint.accept(*token_ids)
            except LorryError as error:
                return self._fail(sequence, error)
        is_first = sequence.num_output_tokens == len(token_ids) == 1
        return RequestOutput(
            sequence.request.request_id,
            token_ids=token_ids,
            logprobs=() if brought.logprobs is None else (brought.logprobs,),
            prompt_logprobs=brought.scores,
            embedding=sequence.embedding if reason else (),
            finish_reason=reason,
            # The first token's are for a request that ends from outside: by a stop string, say.
            stats=sequence.stats(now) if reason or is_first else None,
        )

    def _most_tokens(self, sequence: Sequence) -> int:
        """How long a sequence may be when it begins: what is to be answered needs room for a token."""
        return self.context_length - min(1, sequence.request.sampling.max_tokens)

    def _too_long(self, sequence: Sequence) -> InvalidArgument:
        answer = "with room for an answer " if sequence.request.sampling.max_tokens else ""
        return InvalidArgument(
            f"The prompt has {sequence.num_prompt_tokens} tokens, and adapter {sequence.adapter} puts "
            f"{sequence.virtual.count} virtual ones before it; {answer}the context holds "
            f"{self._most_tokens(sequence)}. Shorten the prompt.",
            reason="PROMPT_TOO_LONG",
            prompt_tokens=sequence.num_prompt_tokens,
            virtual_tokens=sequence.virtual.count,
            context_length=self.context_length,
        )

    def _not_finite(self, sequence: Sequence) -> FailedPrecondition:
        who = f"adapter {sequence.adapter}" if sequence.adapter else "the base"
        return FailedPrecondition(
            f"After {len(sequence.token_ids)} tokens {who} gives logits that are not finite: its weights "
            "overflow. Use another version.",
            reason="LOGITS_NOT_FINITE",
            adapter=sequence.adapter or "",
        )

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        sampling = sequence.request.sampling
        if sequence.num_output_tokens and sequence.token_ids[-1] in sampling.stop_token_ids:
            return FinishReason.STOP
        if sequence.num_output_tokens >= sampling.max_tokens:
            return FinishReason.LENGTH
        if sequence.num_tokens >= self.context_length:
            return FinishReason.LENGTH
        return None

    # Changes of state.

    def _start(self, sequence: Sequence, now: float) -> None:
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.state = SequenceState.RUNNING
        sequence.overtaken = 0
        if sequence.adapter is not None:
            self.residency.acquire(sequence.adapter, now)
        if sequence.first_scheduled is None:
            sequence.first_scheduled = now
            sequence.num_cached_tokens = sequence.num_computed_tokens

    def _preempt(self, sequence: Sequence) -> Sequence:
        self._stop_running(sequence)
        self.waiting.appendleft(sequence)
        sequence.state = SequenceState.WAITING
        self.preemptions += 1
        return sequence

    def _fail(self, sequence: Sequence, error: Exception) -> RequestOutput:
        self._end(sequence)
        return RequestOutput(sequence.request.request_id, error=error)

    def _end(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request.request_id]
        if sequence.state is SequenceState.RUNNING:
            self._stop_running(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.state = SequenceState.FINISHED

    def _stop_running(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.memory.free(sequence)
        if sequence.adapter is not None:
            self.residency.release(sequence.adapter)

    def _slot(self, sequence: Sequence) -> int | None:
        if sequence.adapter is None:
            return None
        resident = self.residency.get(sequence.adapter)
        assert resident is not None
        return resident.slot
