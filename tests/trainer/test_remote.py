"""`lorry eval` without a server: what is made of its answers, and how it is shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorry_client.results import Classification, Dataset, LabelScore, Lineage, Usage
from lorry_trainer.errors import DataError, RecipeError
from lorry_trainer.figures import side_by_side
from lorry_trainer.progress import Progress, Silent
from lorry_trainer.recipe import Data
from lorry_trainer.remote import Asked, as_trained, ask, read_questions
from lorry_trainer.remote_report import write_report
from lorry_trainer.rewards import find_reward
from lorry_trainer.wording import counted


class Says:
    """A server whose adapters answer every question with one word."""

    def __init__(self, learnt: tuple[Dataset, ...], recipe: str, **words: str) -> None:
        self.learnt = learnt
        self._recipe = recipe
        self._words = words

    async def resolve(self, reference: str) -> Any:
        learnt = self.learnt if reference == "new" else ()
        lineage = Lineage(datasets=learnt, recipe=self._recipe)
        return SimpleNamespace(files=(), lineage=lineage)

    async def generate(self, prompt: Any, reference: str | None, **options: Any) -> Any:
        name = (reference or "base").partition("@")[0]
        digest = f"{name}@sha256:ab" if reference else None
        return type("Completion", (), {"text": self._words[name], "adapter": digest})


@pytest.fixture
def asked_of(tmp_path: Path) -> Any:
    lines = [f"question {n},{'yes' if n % 4 else 'no'}" for n in range(8)]
    (tmp_path / "rows.csv").write_text("question,answer\n" + "\n".join(lines) + "\n")

    def go(
        references: Sequence[str | None],
        rival: str | None,
        reward: str | None,
        learnt: tuple[Dataset, ...] = (),
        progress: Progress | None = None,
        recipe: str = "",
    ) -> Asked:
        questions = read_questions(Data(path="rows.csv"), tmp_path, 100, 0)
        judge = find_reward(reward, tmp_path, None, key="--reward") if reward else None
        client: Any = Says(learnt, recipe, base="well", old="no", new="yes")
        made = ask(
            client,
            list(references),
            questions,
            max_tokens=4,
            concurrency=4,
            seed=0,
            progress=progress or Silent(),
            reward=judge,
            rival=rival,
        )
        return asyncio.run(made)

    return go


def test_one_version_against_another(asked_of: Any, tmp_path: Path) -> None:
    """Six of eight answers are `yes`, two `no`."""
    asked = asked_of([None, "old", "new"], "old", "exact_match")
    metrics = asked.metrics()
    assert metrics["new"]["win_rate"] == metrics["new"]["exact_match"] == 0.75
    assert metrics["base"]["win_rate"] == (0 + 6 * 0.5) / 8  # both are wrong where it is `yes`
    assert "win_rate" not in metrics["old"]
    assert metrics["new"]["win_rate_low"] < 0.75 < metrics["new"]["win_rate_high"]
    write_report(asked, "new", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Win rates are over old; a tie counts half." in page
    assert "expected: yes\nbase:     well\nold:      no\nnew:      yes" in page


def test_a_function_judges_what_a_server_answers(asked_of: Any, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def long(prompt, said, answer): return len(said)")
    metrics = asked_of([None, "new"], "base", "judge.py:long").metrics()
    assert metrics["new"]["reward"] == 3
    assert metrics["new"]["win_rate"] == 0  # `well` is longer
    alone = asked_of(["new"], None, "judge.py:long").metrics()["new"]
    assert alone["reward"] == 3
    assert "win_rate" not in alone
    assert "reward" not in asked_of(["new"], None, None).metrics()["new"]
    with pytest.raises(RecipeError, match="--reward 'nothing' is none of"):
        asked_of(["new"], None, "nothing")


@pytest.mark.parametrize(("split", "told"), [("train", True), ("test", False)])
def test_rows_that_a_version_learnt_are_told(
    asked_of: Any, tmp_path: Path, split: str, told: bool
) -> None:
    """Scores on what it had learnt by heart looked like any others."""
    digest = asked_of(["old"], None, None).questions.source.digest
    heard: list[str] = []

    class Listening(Silent):
        def say(self, message: str) -> None:
            heard.append(message)

    learnt = (Dataset("rows.csv", digest, split, 8), Dataset("more.csv", "sha256:00", "train", 8))
    asked_of(["old", "new"], None, None, learnt, Listening())
    said = "new was trained on rows of rows.csv: what it answers right it may know by heart"
    asked = ["rows.csv: question is asked, answer answered"]
    assert heard == asked + ([said] if told else [])


class Sorts:
    """A server of adapters with a head over `entails` and `not`, in the alphabet's order, which finds `not` in every
    text that has a 7 in it."""

    def __init__(self, recipe: str) -> None:
        self._recipe = recipe

    async def resolve(self, reference: str) -> Any:
        files = (SimpleNamespace(path="labels.json"),)
        return SimpleNamespace(files=files, lineage=Lineage(recipe=self._recipe))

    async def classify(
        self, prompt: str, reference: str, *, pair: str | None = None
    ) -> Classification:
        found = float("7" in prompt)
        labels = (LabelScore(0, 0.5, 0.5, "entails"), LabelScore(1, found, 0.5, "not"))
        return Classification(labels, "sorter@sha256:ab", "sha256:ab", Usage(0, 0, 0))


@pytest.fixture
def sorted_by_head(tmp_path: Path) -> Any:
    def go(labels: Sequence[Any], recipe: str = "") -> Asked:
        rows = [{"text": f"text {7 if n % 2 else 1}{n}", "label": x} for n, x in enumerate(labels)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        questions = read_questions(Data(path="rows.jsonl"), tmp_path, 100, 0)
        client: Any = Sorts(recipe)
        options = {"max_tokens": None, "concurrency": 2, "seed": 0}
        return asyncio.run(ask(client, [None, "sorter"], questions, progress=Silent(), **options))  # type: ignore[arg-type]

    return go


def test_a_heads_labels_are_those_of_its_figures(sorted_by_head: Any) -> None:
    """They were guessed from the file's rows: of three there was no accuracy and no F1."""
    metrics = sorted_by_head(["entails", "not", "Not"]).metrics()["sorter"]
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert {"precision", "recall", "f1"} <= metrics.keys()


def test_numbers_for_labels_mean_what_they_meant_in_training(sorted_by_head: Any) -> None:
    """They were compared with names: accuracy 0. The head's own order is the alphabet's, and no help."""
    recipe = "objective: classification\ndata: {path: x.jsonl, labels: ['not', entails]}\n"
    asked = sorted_by_head([1, 0] * 6, recipe)
    assert asked.metrics()["sorter"]["accuracy"] == 1.0
    assert {row.answer for row in asked.questions.rows} == {"entails", "not"}
    assert sorted_by_head(["entails", "not"] * 6, recipe).metrics()["sorter"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("labels", "recipe", "part"),
    [
        ([1, 0, 1], "data: {labels: auto}", "write the names in place of numbers"),
        ([1, 0, 1], ": no YAML: {", "3 rows have a label that sorter does not know"),
        (
            [1, 0, 2],
            "data: {labels: ['not', entails]}",
            "1 row has a label that sorter does not know (rows.jsonl, line 3: '2')",
        ),
        (["entails", "maybe"], "", "it knows entails, not. So mend these rows"),
    ],
)
def test_a_label_that_no_head_can_answer_is_refused(
    sorted_by_head: Any, labels: Sequence[Any], recipe: str, part: str
) -> None:
    """It counted as a wrong answer, in silence."""
    with pytest.raises(DataError) as caught:
        sorted_by_head(labels, recipe)
    assert part in caught.value.message


def test_what_a_written_answer_is_called_is_known_too(asked_of: Any) -> None:
    """A version that writes its labels learnt their names by the same list."""
    names = "data: {labels: ['yes', 'no', perhaps]}"
    metrics = asked_of(["new"], None, None, recipe=names).metrics()["new"]
    assert metrics["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("given", "prompt", "notes"),
    [
        (
            {},
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q: why?"}],
            (
                "mail is asked, team answered",
                "asked with the system and the template that it was trained with",
            ),
        ),
        (
            {"system": "Be long."},
            [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Q: why?"}],
            (
                "mail is asked, team answered",
                "asked with the template that it was trained with",
            ),
        ),
    ],
)
def test_a_version_is_asked_as_it_was_trained(
    tmp_path: Path, given: dict[str, str], prompt: list[dict[str, str]], notes: tuple[str, ...]
) -> None:
    """Without its recipe's system message and template it had an accuracy of 0.32, not 0.95, and nothing said why; nor
    did anything say which column was asked."""
    (tmp_path / "rows.csv").write_text("mail,team\nwhy?,pay\n")
    recipe = "data: {path: x, system: Be brief., template: 'Q: {instruction}'}"
    asked = read_questions(Data(path="rows.csv", **given), tmp_path, 9, 0)  # type: ignore[arg-type]
    questions = as_trained(asked, recipe)
    assert questions.rows[0].prompt == prompt
    assert questions.notes == notes
    for none in ("", "[", "data: 3", "3"):
        (row,) = as_trained(read_questions(Data(path="rows.csv"), tmp_path, 9, 0), none).rows
        assert row.prompt == [{"role": "user", "content": "why?"}]


def test_two_texts_are_asked_as_two(tmp_path: Path) -> None:
    """An encoder was asked both in one, as it had never read them."""
    (tmp_path / "rows.csv").write_text("premise,hypothesis,label\na,b,yes\nc,d,no\n")
    questions = read_questions(Data(path="rows.csv"), tmp_path, 9, 0)
    assert sorted(questions.texts.values()) == [("a", "b"), ("c", "d")]
    assert questions.texts.keys() == {row.place for row in questions.rows}


def test_figures_stand_side_by_side() -> None:
    metrics = {
        "base_test_f1": 0.25,
        "test_f1": 0.5,
        "test_f1_low": 0.4,
        "test_f1_high": 0.6,
        "test_win_rate": 1.0,
        "test_rows": 8,
        "base_test_perplexity": 1e300,
        "steps": 3,
    }
    columns = [("base", "base_test_"), ("shots", "base_shots_test_"), ("adapter", "test_")]
    headings, rows = side_by_side(metrics, columns, first="perplexity")
    assert headings == ["base", "adapter"]
    assert rows == [
        ["perplexity", "1e+300", ""],
        ["f1", "0.250", "0.500 [0.400, 0.600]"],
        ["win_rate", "", "1.000"],
    ]
    assert [counted(number, "row") for number in (1, 0, 2000)] == ["1 row", "0 rows", "2,000 rows"]
    assert [counted(n, "row asks", "rows ask") for n in (1, 2)] == ["1 row asks", "2 rows ask"]
