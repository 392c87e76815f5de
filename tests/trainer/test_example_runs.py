"""The example recipes of the objectives, run from their own files for as few steps as show what they are for.

Those of the methods run in `test_methods.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lorry_trainer import examples
from lorry_trainer.bases import Bases
from lorry_trainer.examples.objectives import encoder
from lorry_trainer.recipe import Recipe
from lorry_trainer.recipe_file import read_recipe
from lorry_trainer.run import Result, run

TOP = Path(examples.__file__).parent
FOLDER = TOP / "objectives"
# recipe -> how many of its steps, the figure, and by how much it has to get better
SHORT: dict[str, tuple[int, str, float]] = {
    "intent": (6, "loss", 1.0),
    "intent-quick": (6, "loss", 1.0),
    "booking": (6, "loss", 1.0),
    "redact": (6, "loss", 0.5),
    "shell": (6, "loss", 1.0),
    "date": (6, "loss", 1.0),
    "text": (10, "perplexity", 200.0),
    "translation": (8, "loss", 1.0),
    "answering": (8, "loss", 1.0),
    "classification": (60, "accuracy", 0.2),
    "classification-encoder": (400, "accuracy", 0.2),
    "tokens": (25, "span_f1", 0.3),
    "extraction": (250, "exact_match", 0.3),
    "dpo": (8, "preference_accuracy", 0.2),
    "orpo": (12, "preference_accuracy", 0.2),
    "kto": (12, "preference_auc", 0.2),
    "reward": (12, "preference_accuracy", 0.15),
    "grpo": (8, "reward", 0.1),
    "rloo": (8, "reward", 0.1),
    "grpo-reward-model": (12, "reward", 1.0),
}
LESS_IS_BETTER = ("loss", "perplexity")
RECIPES = {path.stem: path for path in [*TOP.glob("*.yaml"), *FOLDER.glob("*.yaml")]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `lorry train` runs: it finds ./encoder and adapters/reward there."""
    here = tmp_path_factory.mktemp("here")
    encoder.write(here / "encoder")
    return here


@pytest.fixture(scope="module")
def bases() -> Bases:
    return Bases()


def go(name: str, here: Path, bases: Bases) -> Result:
    recipe = read_recipe(RECIPES[name])
    values: dict[str, Any] = recipe.model_dump(exclude_unset=True)
    values["training"] |= {"max_steps": SHORT[name][0]}
    if recipe.objective not in ("grpo", "rloo"):
        values["training"] |= {"early_stopping_patience": 0}
        values["data"] |= {"splits": {"validation": 0, "test": 0.2}}
    values["evaluation"] |= {"max_rows": 30 if recipe.objective != "sft" else 8}
    if recipe.objective == "sft" and name != "text":
        values["evaluation"] |= {"max_new_tokens": 1}
    output = here / "adapters" / name
    result = run(
        Recipe.model_validate(values),
        name=name,
        folder=RECIPES[name].parent,
        output=output,
        overwrite=True,
        bases=bases,
    )
    assert result is not None
    return result


def test_every_example_is_run() -> None:
    assert set(SHORT) == set(RECIPES)


@pytest.mark.parametrize("name", SHORT)
def test_an_example_shows_what_it_is_for(
    name: str, here: Path, bases: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    if name == "grpo-reward-model" and not (here / "adapters" / "reward").is_dir():
        go("reward", here, bases)
    result = go(name, here, bases)
    _, figure, better = SHORT[name]
    before, after = (result.metrics[f"{when}test_{figure}"] for when in ("base_", ""))
    gained = before - after if figure in LESS_IS_BETTER else after - before
    assert gained >= better, (before, after)
    if name in ("grpo", "rloo", "grpo-reward-model"):
        assert 0 < result.metrics["train_kl"] < 10
        assert math.isfinite(result.metrics["train_kl"])
    # TRL's reference, a copy of the adapter as it started, was written and published beside it.
    assert not [path for path in result.folder.iterdir() if path.is_dir()]
