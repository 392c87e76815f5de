"""A search: what it proposes, what it gives up, that it goes on where it was broken off; TensorBoard's logs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorry_trainer.search as module
from lorry_trainer.bases import Bases
from lorry_trainer.errors import RecipeError, TrainingError
from lorry_trainer.moved import moved
from lorry_trainer.recipe_file import parse_recipe, read_recipe
from lorry_trainer.run import run
from lorry_trainer.search import search

Write = Callable[..., Path]
Build = Callable[..., Any]
Rows = list[dict[str, Any]]

VALUES = {
    "training.learning_rate": {"min": 1e-6, "max": 3e-2, "log": True},
    "lora.rank": {"choices": [2, 8]},
}


@pytest.fixture
def searched(write_rows: Write, letter_rows: Rows, tiny_recipe: Build) -> Callable[..., Any]:
    write_rows(letter_rows)
    training = {"max_steps": 8, "eval_steps": 2, "early_stopping_patience": 0}

    def build(trials: int) -> Any:
        return tiny_recipe(training=training, search={"trials": trials, "values": VALUES})

    return build


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_search_finds_the_better_values_and_goes_on(
    searched: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "search"
    first = search(searched(3), name="s", folder=tmp_path, output=out)
    assert first.trials == 3
    found = search(searched(6), name="s", folder=tmp_path, output=out)
    assert found.trials == 6
    table = rows(out)
    assert [int(row["trial"]) for row in table] == list(range(6))
    done = [float(r["validation_loss"]) for r in table if r["state"] == "complete"]
    assert found.loss == min(done)
    assert found.loss < max(done)
    assert (out / "search.png").stat().st_size > 3000
    best = read_recipe(found.recipe)
    assert best.search is None
    assert best.training.learning_rate == found.values["training.learning_rate"]
    assert best.lora.rank == found.values["lora.rank"]
    assert best.training.max_steps == 8
    # Its folder is not the first recipe's: the data was once looked for beside best.yaml.
    trained = run(best, name="best", folder=found.recipe.parent, output=tmp_path / "best")
    assert trained.folder.is_dir()
    other = searched(6).model_copy(update={"base": "elsewhere"})
    with pytest.raises(RecipeError, match="search of another recipe"):
        search(other, name="s", folder=tmp_path, output=out)


def test_a_search_that_goes_on_proposes_what_it_would_have(
    searched: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on, a search drew its first trials' values once more, and learnt nothing from them."""
    monkeypatch.setattr(module, "_loss", lambda recipe, *_: recipe.training.learning_rate)
    for trials in (2, 4):
        search(searched(trials), name="s", folder=tmp_path, output=tmp_path / "broken")
    search(searched(4), name="s", folder=tmp_path, output=tmp_path / "whole")
    rates = [row["training.learning_rate"] for row in rows(tmp_path / "broken")]
    assert len(set(rates)) == 4
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


@pytest.mark.parametrize("method", ["qlora", "full", "pissa", "bottleneck"])
def test_no_trial_finds_what_another_has_left(
    write_rows: Write, letter_rows: Rows, tiny_recipe: Build, tmp_path: Path, method: str
) -> None:
    """`full` and `pissa` went on from the weights of the trial before; one that failed left its adapter on the base."""
    write_rows(letter_rows)
    recipe = tiny_recipe(
        method=method,
        lora={"rank": 4} if method != "bottleneck" else {},
        training={"max_steps": 4, "eval_steps": 2, "early_stopping_patience": 0},
        search={"trials": 4, "values": {"training.learning_rate": {"choices": [0.01]}}},
    )
    original, calls = module.train, []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(original(*arguments, **options))
        if len(calls) == 3:
            raise TrainingError("the loss is nan")
        return calls[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", failing)
        search(recipe, name="s", folder=tmp_path, output=tmp_path / "search")
    table = rows(tmp_path / "search")
    assert [row["state"] for row in table] == ["complete", "complete", "fail", "complete"]
    losses = {row["validation_loss"] for row in table if row["state"] == "complete"}
    assert len(losses) == 1


def test_a_trial_that_failed_is_not_tried_again(
    searched: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new call added the same failing trial, and no search ended; one that was broken off is tried again."""

    def loss(recipe: Any, name: str, folder: Path, bases: Any, progress: Any, trial: Any) -> float:
        if trial.number == 1:
            raise TrainingError("the loss is nan")
        if trial.number == 2:
            raise KeyboardInterrupt
        return float(recipe.training.learning_rate)

    monkeypatch.setattr(module, "_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        search(searched(3), name="s", folder=tmp_path, output=tmp_path / "search")
    found = search(searched(3), name="s", folder=tmp_path, output=tmp_path / "search")
    states = [row["state"] for row in rows(tmp_path / "search")]
    assert states[:2] == ["complete", "fail"]
    assert states[-1] == "complete"
    again = search(searched(3), name="s", folder=tmp_path, output=tmp_path / "search")
    assert again.trials == found.trials


def test_poor_trials_are_given_up(
    searched: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    out = tmp_path / "search"
    found = search(searched(2), name="s", folder=tmp_path, output=out)
    assert found.pruned == 1
    assert [row["state"] for row in rows(out)] == ["complete", "pruned"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{values: {}}", "search.values"),
        ("{values: {lora.rank: {min: 3, max: 1}}}", "min must be below max"),
        ("{values: {lora.rank: {choices: []}}}", "choices"),
        (
            "{values: {lora.rank: {min: 1.2, max: 1.8, whole: true}}}",
            "no whole number lies between",
        ),
        # Trials were compared on other rows, or in other units: the smallest beta always won.
        ("{values: {training.seed: {choices: [1, 2]}}}", "`training.seed` decides what"),
        ("{values: {preference.beta: {min: 0.1, max: 1}}}", "`preference.beta` decides what"),
        ("{values: {data.splits.test: {min: 0.1, max: 0.2}}}", "`data.splits.test` decides what"),
        ("{trails: 3, values: {a: {choices: [1]}}}", "did you mean trials?"),
    ],
)
def test_a_search_that_cannot_be(text: str, part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"data: {{path: x}}\nsearch: {text}")
    assert part in str(caught.value)


def test_a_search_that_cannot_begin_leaves_nothing(
    searched: Callable[..., Any], tmp_path: Path
) -> None:
    """A value that no key takes was found by a trial: its search lay in the way of the mended recipe's."""
    with pytest.raises(
        RecipeError,
        match=r"x\.yaml:3: search\.values: no recipe has a key lora\.rnak; did you mean",
    ):
        parse_recipe("data: {path: x}\nsearch:\n  values: {lora.rnak: {choices: [1]}}", "x.yaml")
    recipe = searched(1)
    values = {"lora.rank": recipe.search.values["lora.rank"].model_copy(update={"choices": (2, 0)})}
    wrong = recipe.model_copy(
        update={"search": recipe.search.model_copy(update={"values": values})}
    )
    with pytest.raises(RecipeError, match="greater than or equal to 1"):
        search(wrong, name="s", folder=tmp_path, output=tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_a_key_that_no_recipe_has(searched: Callable[..., Any], tmp_path: Path) -> None:
    recipe = searched(1)
    values = {"lora.rnak": recipe.search.values["lora.rank"]}
    wrong = recipe.model_copy(
        update={"search": recipe.search.model_copy(update={"values": values})}
    )
    with pytest.raises(RecipeError, match="did you mean rank"):
        search(wrong, name="s", folder=tmp_path, output=tmp_path / "search")


def test_an_objective_without_a_validation_loss(tiny_recipe: Build, tmp_path: Path) -> None:
    """Once the search trained a whole trial and then ended in `min() arg is an empty sequence`."""
    values = {"training.learning_rate": {"min": 1e-4, "max": 1e-2}}
    recipe = tiny_recipe(
        objective="grpo", reinforcement={"reward": "contains"}, search={"values": values}
    )
    with pytest.raises(RecipeError, match="objective: grpo has none"):
        search(recipe, name="s", folder=tmp_path, output=tmp_path / "search")


def test_tensorboard_has_the_curves(
    write_rows: Write, letter_rows: Rows, tiny_recipe: Build, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_rows(letter_rows)
    recipe = tiny_recipe(training={"max_steps": 2, "tensorboard": str(tmp_path / "logs")})
    run(recipe, name="x", folder=tmp_path, output=tmp_path / "out", bases=Bases())
    logged = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert {"train/loss", "eval/loss"} <= set(logged.Tags()["scalars"])
    assert len(logged.Scalars("train/loss")) == 2


def test_files_of_a_recipe_that_moves(tiny_recipe: Build, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "reward.py", "general.txt"):
        (tmp_path / name).touch()
    recipe = tiny_recipe(
        objective="grpo",
        reinforcement={"reward": "reward.py:it"},
        evaluation={"general": "general.txt"},
    )
    values = moved(recipe, tmp_path, tmp_path / "searches" / "s")
    assert values["data"]["path"] == "../../rows.jsonl"
    assert values["reinforcement"]["reward"] == "../../reward.py:it"
    assert values["evaluation"]["general"] == "../../general.txt"
    for name in ("hub:org/name", str(tmp_path / "rows.jsonl")):
        elsewhere = tiny_recipe(data={"path": name})
        assert moved(elsewhere, tmp_path, tmp_path / "x")["data"]["path"] == name
