"""Score any published version on rows of data, through a running server: no torch, many requests at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lorry_trainer.data import choose
from lorry_trainer.errors import DataError
from lorry_trainer.formats import examples
from lorry_trainer.formats.contract import Example
from lorry_trainer.formats.find import find_columns, told
from lorry_trainer.judge import Judgement, judge
from lorry_trainer.labels import LABELS_FILE, labels_of
from lorry_trainer.metrics import normalised
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.progress import Progress
from lorry_trainer.read import Row, Source, read_source
from lorry_trainer.recipe import Data
from lorry_trainer.remote_labels import all_among, by_name, numbering, refuse_other_labels
from lorry_trainer.rewards import Reward, earned

if TYPE_CHECKING:
    from lorry_client.aio import AsyncClient
    from lorry_client.results import Classification, Version

BARE = "base"  # what the bare base is called beside references


@dataclass(frozen=True)
class Questions:
    rows: list[Example]  # a seeded choice of those of a file, every one a test row
    labels: frozenset[str]  # of all the file's rows, or those that the version learnt
    source: Source
    data: Data  # its format and columns found
    texts: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # of labelled rows
    notes: tuple[str, ...] = ()  # what was taken for what


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


@dataclass(frozen=True)
class _Said:
    text: str
    acted: str | None  # who said it
    labels: frozenset[str] = frozenset()  # all that a head may say, normalised


def read_questions(data: Data, folder: Path, limit: int, seed: int) -> Questions:
    """`limit` rows of the file at most. Raises DataError."""
    source = read_source(data.path or "", folder)
    found = find_columns(source.rows, data, [f for f in OBJECTIVES["sft"] if f != "text"])
    notes = (taken,) if (taken := told(source.rows, found)) else ()
    rows = examples(source.rows, found.format, found)
    labels = labels_of(data, rows)
    return Questions(
        choose(rows, limit, seed), labels, source, found, _texts(source.rows, data), notes
    )


def as_trained(questions: Questions, recipe: str) -> Questions:
    """The same rows, asked with the recipe's own system message and template, where nothing else was given."""
    own = _own_words(recipe, questions.data)
    if not own:
        return questions
    data = questions.data.model_copy(update=own)
    places = {row.place for row in questions.rows}
    rows = [row for row in questions.source.rows if row.place in places]
    note = f"asked with the {' and the '.join(own)} that it was trained with"
    return replace(
        questions,
        rows=examples(rows, data.format, data),
        data=data,
        notes=(*questions.notes, note),
    )


def _own_words(recipe: str, data: Data) -> dict[str, str]:
    """The system message and the template of a recipe, where `data`, whose format is found, leaves them open."""
    try:
        whole = yaml.safe_load(recipe)
    except yaml.YAMLError:
        return {}
    said = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(said, dict):
        return {}
    heard = {"system": ("instruction", "messages", "translation"), "template": ("instruction",)}
    return {
        key: said[key]
        for key, formats in heard.items()
        if data.format in formats
        and isinstance(said.get(key), str)
        and getattr(data, key) == Data.model_fields[key].default != said[key]
    }


def _texts(rows: list[Row], data: Data) -> dict[str, tuple[str, str | None]]:
    """By place, what a head is asked: a text, or two. Nothing where the rows are no labelled texts."""
    try:
        found = find_columns(rows, data, ["labelled"])
        labelled = examples(rows, found.format, found)
    except DataError:
        return {}
    return {row.place: (row.record["text"], row.record["pair"]) for row in labelled}


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
    """Every reference (None is the bare base) answers all rows, greedily, or by its head where it has labels for one;
    the bare base, which has none, is then not asked. A `reward` judges the answers, and tells how often the others win
    over the `rival`'s. Numbers for labels mean what they meant to the last reference in its training.

    Raises DataError where a row's label is none of a head's, and lorry_client's errors; the requests that are under way
    then end with it."""
    versions = {name: await client.resolve(name) for name in references if name}
    if version := versions.get(references[-1] or ""):
        questions = as_trained(questions, version.lineage.recipe)
    for note in questions.notes:
        progress.say(f"{questions.source.name}: {note}")
    for name, version in versions.items():
        if (questions.source.digest, "train") in {
            (d.digest, d.split) for d in version.lineage.datasets
        }:
            progress.say(
                f"{name} was trained on rows of {questions.source.name}: what it answers right it may know by heart"
            )
    with_head = {name for name, version in versions.items() if _classifies(version)}
    if with_head and None in references:
        references = [name for name in references if name]
        rival = None if rival == BARE else rival
        progress.say("the bare base has no head to classify with, so it is not asked")
    questions = _named(questions, versions.get(references[-1] or ""))
    gate = asyncio.Semaphore(concurrency)
    answers: dict[str, list[str]] = {}
    acted: dict[str, str | None] = {}
    labels: dict[str, frozenset[str]] = {}

    async def one(reference: str | None, row: Example, *, by_head: bool) -> _Said:
        async with gate:
            if by_head and reference:
                text, pair = questions.texts.get(row.place, (row.asked, None))
                said = _by_head(await client.classify(text, reference, pair=pair), reference)
            else:
                answer = await client.generate(row.prompt, reference, max_tokens=max_tokens)  # type: ignore[arg-type]
                said = _Said(answer.text.strip(), answer.adapter)
        progress.advance()
        return said

    rows = questions.rows
    for reference in references:
        who = reference or BARE
        by_head = reference in with_head
        progress.start(who, len(rows))
        # What it means from here on, should its alias move meanwhile.
        first = await one(reference, rows[0], by_head=by_head)
        if by_head:
            refuse_other_labels(rows, first.labels, who)
        meant, labels[who] = first.acted, first.labels or questions.labels
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(meant, row, by_head=by_head)) for row in rows[1:]]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        answers[who] = [first.text, *(task.result().text for task in tasks)]
        acted[who] = meant
    expected = [row.answer for row in rows]
    judged = {who: judge(said, expected, labels[who], seed) for who, said in answers.items()}
    if reward is not None:
        judged = _rewarded(judged, answers, questions, reward, rival, seed)
    return Asked(questions, answers, acted, judged, rival)


def _classifies(version: Version) -> bool:
    """Whether it tells the labels of a head of its own."""
    return any(file.path == LABELS_FILE for file in version.files)


def _named(questions: Questions, version: Version | None) -> Questions:
    """With the names that the version learnt for its labels, where the rows have these or their numbers."""
    names = numbering(version.lineage.recipe) if version else ()
    labels, rows = frozenset(map(normalised, names)), by_name(questions.rows, names)
    are_labels = version is not None and (_classifies(version) or all_among(rows, labels))
    return replace(questions, rows=rows, labels=labels) if are_labels else questions


def _by_head(found: Classification, reference: str) -> _Said:
    names = [label.name for label in found.labels if label.name is not None]
    if len(names) < len(found.labels):
        raise DataError(
            f"the server tells no names of {reference}'s labels: an older one brought its files to the "
            "disk. Empty the cache in the server's home and ask again"
        )
    return _Said(names[found.best], found.adapter, frozenset(map(normalised, names)))


def _rewarded(
    judged: dict[str, Judgement],
    answers: dict[str, list[str]],
    questions: Questions,
    reward: Reward,
    rival: str | None,
    seed: int,
) -> dict[str, Judgement]:
    """With what the answers earn, and how often they win over the rival's."""
    prompts, expected = zip(*((row.prompt, row.answer) for row in questions.rows), strict=True)
    each = {who: reward.judge(list(prompts), said, list(expected)) for who, said in answers.items()}
    rewarded: dict[str, Judgement] = {}
    for who, own in each.items():
        figures, sure = earned(own, each[rival] if rival and rival != who else None, seed)
        judgement = judged[who]
        rewarded[who] = replace(
            judgement,
            metrics=judgement.metrics | figures,
            intervals=judgement.intervals | sure,
        )
    return rewarded
