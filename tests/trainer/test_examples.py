"""The shipped examples: made again byte for byte, short, without leaks, and each a recipe that reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_trainer import examples
from lorry_trainer.data import load
from lorry_trainer.examples.generate import TASKS, write
from lorry_trainer.recipe_file import read_recipe

FOLDER = Path(examples.__file__).parent
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_the_data_sets_are_what_the_script_makes(tmp_path: Path) -> None:
    write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(made) == len(TASKS)
    assert {name: (FOLDER / name).read_bytes() for name in made} == made
    assert all(len(content) < 200_000 for content in made.values())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_reads_and_its_data_splits(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.base == "lorry-tiny"
    assert recipe.description
    data = load(recipe.data, FOLDER, recipe.training.seed)
    assert min(len(data.train), len(data.validation), len(data.test)) >= 50
    assert not {e.key for e in data.train} & {e.key for e in data.validation + data.test}


def test_there_are_examples_of_every_format() -> None:
    formats = {load(read_recipe(path).data, FOLDER, 0).format for path in RECIPES}
    assert formats == {"instruction", "messages", "prompt_completion"}
