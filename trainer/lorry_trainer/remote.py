"""Score any published version on rows of data, through a running server: no torch, many requests at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorry_trainer.data import choose
from lorry_trainer.formats import examples
from lorry_trainer.formats.contract import Example
from lorry_trainer.formats.find import find_columns
from lorry_trainer.judge import Judgement, judge
from lorry_trainer.labels import find_labels
from lorry_trainer.metrics import normalised
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.progress import Progress
from lorry_trainer.read import read_source
from lorry_trainer.recipe import Data
from lorry_trainer.rewards import Reward, earned

if TYPE_CHECKING:
    from lorry_client.aio import AsyncClient
    from lorry_client.results.generation import Completion


@dataclass(frozen=True)
class Questions:
    rows: list[Example]  # a seeded choice of those of a file, every one a test row
    labels: frozenset[str]  # of all the file's rows
    name: str  # the file's
    digest: str  # sha256:… of its bytes


@dataclass(frozen=True)
class Asked:
    questions: Questions
    answers: dict[str, list[str]]  # by who answered: `base`, or the reference that was asked for
    acted: dict[
        str, str | None
    ]  # the reference that always means what answered; None for the bare base
    judged: dict[str, Judgement]
    rival: str | None = None  # whom the others' win rates are over, where there are any

    def columns(self) -> tuple[dict[str, float], list[tuple[str, str]]]:
        """The figures of all, and who (for a heading) has which prefix."""
        prefixes = [(who, f"{at} ") for at, who in enumerate(self.answers)]
        figures = self.metrics()
        merged = {p + name: value for who, p in prefixes for name, value in figures[who].items()}
        return merged, prefixes

    def metrics(self) -> dict[str, dict[str, float]]:
        """By who answered, with the bounds of each interval."""
        return {
            who: judged.metrics
            | {f"{name}_low": low for name, (low, _) in judged.intervals.items()}
            | {f"{name}_high": high for name, (_, high) in judged.intervals.items()}
            for who, judged in self.judged.items()
        }


def read_questions(data: Data, folder: Path, limit: int, seed: int) -> Questions:
    """`limit` rows of the file at most. Raises DataError."""
    source = read_source(data.path or "", folder)
    found = find_columns(source.rows, data, [f for f in OBJECTIVES["sft"] if f != "text"])
    rows = examples(source.rows, found.format, found)
    given = data.labels if isinstance(data.labels, tuple) else ()
    labels = frozenset(map(normalised, given))
    if data.labels == "auto":
        labels = find_labels(rows)
    return Questions(choose(rows, limit, seed), labels, source.name, source.digest)


async def ask(
    client: AsyncClient,
    references: list[str | None],
    questions: Questions,
    *,
    max_tokens: int | None,
    concurrency: int,
    seed: int,
    progress: Progress,
    reward: Reward | None = None,
    rival: str | None = None,
) -> Asked:
    """Every reference (None is the bare base) answers all rows, greedily; a `reward` judges the answers, and tells how
    often the others win over the `rival`'s. Raises lorry_client's errors; the requests that are under way then end with
    it."""
    rows = questions.rows
    gate = asyncio.Semaphore(concurrency)
    answers: dict[str, list[str]] = {}
    acted: dict[str, str | None] = {}

    async def one(reference: str | None, row: Example) -> Completion:
        async with gate:
            said = await client.generate(row.prompt, reference, max_tokens=max_tokens)  # type: ignore[arg-type]
        progress.advance()
        return said

    for reference in references:
        who = reference or "base"
        progress.start(who, len(rows))
        first = await one(
            reference, rows[0]
        )  # what it means from here on, should its alias move meanwhile
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(first.adapter, row)) for row in rows[1:]]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        answers[who] = [said.text.strip() for said in [first, *(task.result() for task in tasks)]]
        acted[who] = first.adapter
    expected = [row.answer for row in rows]
    judged = {who: judge(said, expected, questions.labels, seed) for who, said in answers.items()}
    if reward is not None:
        asked = [row.prompt for row in rows]
        each = {who: reward.judge(asked, said, expected) for who, said in answers.items()}
        for who, own in each.items():
            figures, sure = earned(own, each[rival] if rival else own, seed)
            if rival in (None, who):
                del figures["win_rate"], sure["win_rate"]
            judged[who] = replace(
                judged[who],
                metrics=judged[who].metrics | figures,
                intervals=judged[who].intervals | sure,
            )
    return Asked(questions, answers, acted, judged, rival)
