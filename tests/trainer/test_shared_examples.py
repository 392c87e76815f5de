"""The recipes on data that Lorry does not ship, where it is there; what is made of such data, on rows of our own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lorry_trainer.data import load
from lorry_trainer.examples import shared
from lorry_trainer.examples.shared import prepare
from lorry_trainer.examples.shared.gsm8k_reward import result
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.recipe_file import read_recipe

FOLDER = Path(shared.__file__).parent
DATA = Path(__file__).parents[3] / "shared" / "data"
RECIPES = sorted(path.name for path in FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's recipes, with the rows made and the data five folders up."""
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}")
    root = tmp_path_factory.mktemp("workplace")
    (root / "shared").mkdir()
    (root / "shared" / "data").symlink_to(DATA)
    copy = root / "lorry" / "trainer" / "lorry_trainer" / "examples" / "shared"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("rows", "__pycache__"))
    prepare.main(DATA, copy / "rows")
    return copy


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reads_and_its_rows_do(folder: Path, name: str) -> None:
    recipe = read_recipe(folder / name)
    assert recipe.description
    data = load(recipe.data, folder, recipe.training.seed, OBJECTIVES[recipe.objective])
    assert len(data.train) > 800
    assert len(data.test) >= 300
    assert not {row.key for row in data.train} & {row.key for row in data.test}
    if recipe.objective == "sft" and "banking77" in name:
        assert len(data.labels) == 77


SAID = {
    "userInput": {"text": "Anna, table for 2 at 7:30 pm"},
    "context": {"requestedSlots": ["first_name"]},
    "labels": [
        {"slot": "time", "valueSpan": {"startIndex": 21, "endIndex": 28}},
        {"slot": "first_name", "valueSpan": {"endIndex": 4}},
        {"slot": "people", "valueSpan": {"startIndex": 16, "endIndex": 17}},
    ],
}


def test_slots_as_tags_questions_and_text() -> None:
    tagged = prepare.tagged(SAID)
    assert list(zip(tagged["words"], tagged["tags"], strict=True)) == [
        ("first_name?", "O"),
        *[("Anna", "B-first_name"), (",", "O"), ("table", "O"), ("for", "O"), ("2", "B-people")],
        *[("at", "O"), ("7", "B-time"), (":", "I-time"), ("30", "I-time"), ("pm", "I-time")],
    ]
    assert [(row["answer"], row["start"]) for row in prepare.spans(SAID)] == [
        ("Anna", 0),
        ("2", 16),
        ("7:30 pm", 21),
    ]
    assert prepare.as_text(SAID) == {
        "instruction": "first_name? Anna, table for 2 at 7:30 pm",
        "output": "first_name: Anna\npeople: 2\ntime: 7:30 pm",
    }
    assert prepare.as_text({"userInput": {"text": "hello"}})["output"] == "none"


def test_held_out_questions_have_one_pair_each_and_are_not_learnt() -> None:
    def solved(number: int) -> dict[str, object]:
        marks = {name: at < 2 for at, name in enumerate(prepare.SYSTEMS)}
        return {"question": f"q {number}"} | {
            name: {"solution": f"{name} {number}", "is_correct": mark}
            for name, mark in marks.items()
        }

    learnt, held_out = prepare.pairs([solved(number) for number in range(4)])
    assert (len(learnt), len(held_out)) == (8, 2)
    assert not {str(row["prompt"]) for row in learnt} & {str(row["prompt"]) for row in held_out}


@pytest.mark.parametrize(
    ("said", "reward"),
    [("2 + 2 = 4\nAnswer: 4", 1), ("Answer: $1,200.50", 1), ("so it is 4.", 0.5), ("4 and", 0)],
)
def test_an_answer_that_comes_to_a_result(said: str, reward: float) -> None:
    assert result("", said, "5") == reward
