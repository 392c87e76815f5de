"""Many concurrent clients: throughput, an upgrade under load, and scores through the server."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorry_client import AsyncClient, LorryError
from lorry_trainer.metrics import exact_match

Prompt = str | list[dict[str, str]]
LENGTH = 32  # tokens of each answer where speed is measured


@dataclass(frozen=True)
class Question:
    """A held-out row: what to ask and what to hear."""

    prompt: Prompt
    answer: str


@dataclass
class Upgrade:
    """What traffic saw of an alias that moved."""

    requests: int = 0
    failures: int = 0
    before: int = 0  # answers of the first version
    after: int = 0  # answers of a later one
    stale: int = 0  # answers of the first version to questions that were asked after the move


async def measure(
    address: str,
    questions: dict[str, list[Question]],
    clients: int,
    adapters: Sequence[str | None],
) -> float:
    """Tokens/s over as many concurrent streams as there are clients, which take the adapters in turn.

    The prompts are the same ones whatever the adapters.
    """
    tasks = list(questions)
    async with AsyncClient(address) as client:

        async def one(index: int) -> int:
            rows = questions[tasks[index % len(tasks)]]
            prompt = rows[index % len(rows)].prompt
            adapter = adapters[index % len(adapters)]
            count = 0
            async for chunk in client.stream(prompt, adapter, max_tokens=LENGTH, ignore_eos=True):
                count += len(chunk.token_ids)
            return count

        started = time.perf_counter()
        counts = await asyncio.gather(*(one(index) for index in range(2 * clients)))
        return sum(counts) / (time.perf_counter() - started)


async def under_traffic(
    address: str,
    questions: dict[str, list[Question]],
    clients: int,
    upgraded: str,
    change: Callable[[], None],
    seconds: float = 3.0,
) -> Upgrade:
    """Asks without a pause, moves `upgraded` to another version after `seconds`, and goes on for as long again."""
    seen = Upgrade()
    first_digest = ""
    moved_at = float("inf")
    over = asyncio.Event()

    async def ask(client: AsyncClient, number: int) -> None:
        nonlocal first_digest
        adapters = itertools.islice(itertools.cycle([*questions, None]), number % 4, None)
        rows = itertools.cycle(questions[upgraded])
        while not over.is_set():
            adapter, asked_at = next(adapters), time.monotonic()
            seen.requests += 1
            try:
                async for chunk in client.stream(next(rows).prompt, adapter, max_tokens=16):
                    completion = chunk.completion
            except LorryError:
                seen.failures += 1
                continue
            if adapter == upgraded and completion is not None:
                digest = completion.adapter_digest or ""
                first_digest = first_digest or digest
                if digest != first_digest:
                    seen.after += 1
                else:
                    seen.before += 1
                    seen.stale += asked_at > moved_at

    async with AsyncClient(address) as client:
        await client.generate(questions[upgraded][0].prompt, upgraded, max_tokens=1)
        askers = [asyncio.create_task(ask(client, number)) for number in range(clients)]
        await asyncio.sleep(seconds)
        await asyncio.to_thread(change)
        moved_at = time.monotonic()
        await asyncio.sleep(seconds)
        over.set()
        await asyncio.gather(*askers)
    return seen


async def score(address: str, adapter: str, questions: Sequence[Question]) -> float:
    """The share of held-out questions that the adapter answers exactly, all asked at once."""
    async with AsyncClient(address) as client:
        answers = await asyncio.gather(
            *(client.generate(question.prompt, adapter, max_tokens=64) for question in questions)
        )
    hits = [
        exact_match(answer.text, question.answer)
        for answer, question in zip(answers, questions, strict=True)
    ]
    return sum(hits) / len(hits)
