"""Prompts that are admitted whole or not at all, without a model: an encoder's."""

from __future__ import annotations

from lorry_server.engine.config import EngineConfig
from lorry_server.engine.plan import Sampled, StepPlan
from lorry_server.engine.request import FinishReason, GenerationRequest, SamplingParams
from lorry_server.engine.residency import Residency
from lorry_server.engine.scheduler import Scheduler
from lorry_server.engine.sequence import Sequence
from lorry_server.engine.whole_texts import WholeTexts

CONTEXT = 100
STEP = 32


def scheduler(*lengths: int) -> Scheduler:
    """With texts of these lengths waiting, by the names 0, 1, …"""
    config = EngineConfig(slots=2, max_sequences=8, max_batched_tokens=STEP)
    made = Scheduler(config, WholeTexts(CONTEXT, STEP), Residency(2), CONTEXT)
    for name, length in enumerate(lengths):
        ids = tuple(range(length))
        request = GenerationRequest(str(name), ids, SamplingParams(max_tokens=0), pool_from=0)
        made.add(Sequence(request, 0.0, list(ids)))
    return made


def names(plan: StepPlan) -> list[int]:
    return [int(chunk.sequence.request.request_id) for chunk in plan.chunks]


def steps(made: Scheduler) -> list[list[int]]:
    """Runs until nothing waits; what ran in each step. Every chunk is a whole text, and ends with its step."""
    ran = []
    while made.waiting:
        plan = made.schedule(0.0)
        assert all(chunk.num_tokens == chunk.sequence.num_tokens for chunk in plan.chunks)
        outputs = made.account(plan, [Sampled(pooled=[1.0])] * len(plan.chunks), 0.0)
        assert [output.finish_reason for output in outputs] == [FinishReason.LENGTH] * len(outputs)
        assert len(outputs) == len(plan.chunks)
        assert not made.running
        ran.append(names(plan))
    return ran


def test_as_many_as_fit_run_together_and_none_is_cut() -> None:
    assert steps(scheduler(10, 10, 10, 10)) == [[0, 1, 2], [3]]


def test_what_is_longer_than_a_step_runs_alone() -> None:
    """And neither waits for ever behind short ones, nor lets any past."""
    assert steps(scheduler(10, 90, 10, 10)) == [[0], [1], [2, 3]]


def test_what_is_as_long_as_a_step_fits() -> None:
    assert steps(scheduler(STEP, STEP + 1, 1)) == [[0], [1], [2]]


def test_equal_texts_share_nothing() -> None:
    made = scheduler(20, 20)
    assert steps(made) == [[0], [1]]
    assert (made.memory.hit_tokens, made.memory.query_tokens) == (0, 40)
    assert made.memory.num_used_blocks == 0
