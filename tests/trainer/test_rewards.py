"""Rewards: what rules need of the rows, functions as Python runs a script, and reward models wherever their base is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorry_trainer.errors import RecipeError
from lorry_trainer.rewards import Reward, find_reward
from lorry_trainer.run import Result, run

Write = Callable[..., Path]
Tiny = Callable[..., Any]


@pytest.fixture
def go(tiny_recipe: Tiny, tmp_path: Path) -> Callable[..., Result]:
    def start(objective: str, **sections: Any) -> Result:
        values = {
            "objective": objective,
            "training": {"max_steps": 1, "batch_size": 4},
            "evaluation": {"max_new_tokens": None, "max_rows": 4},
        }
        recipe = tiny_recipe(**values | sections)
        return run(recipe, name="it", folder=tmp_path, output=tmp_path / objective)

    return start


# Rules.


@pytest.mark.parametrize(
    ("rule", "answer", "part"),
    [
        ("contains", None, "contains compares with a row's own answer, and "),
        ("exact_match", None, "exact_match compares with a row's own answer, and "),
        ("number", "", "number compares with a row's own answer, and "),
        ("number", "seven", "by number the right answer of rows.jsonl, line "),
    ],
)
def test_a_rule_needs_an_answer_in_every_row(
    go: Callable[..., Result], write_rows: Write, rule: str, answer: str | None, part: str
) -> None:
    """Without answers `contains` gave 1.0 for whatever was said, past any `require`, and the others a constant 0."""
    rows = [{"prompt": f"{i} and 1", "answer": f"{i + 1}"} for i in range(40)]
    odd = [{"prompt": f"{i} or 1", "answer": answer} for i in range(10)]
    write_rows(rows + odd)
    asked = {"reward": rule, "generations": 2, "max_new_tokens": 4}
    with pytest.raises(RecipeError) as caught:
        go("grpo", reinforcement=asked)
    assert caught.value.message.startswith(f"reinforcement.reward: {part}")
    assert "rows.jsonl" in caught.value.message


def test_a_rule_that_judges_test_rows_alone_needs_their_answers(
    go: Callable[..., Result], write_rows: Write, tmp_path: Path
) -> None:
    """What is trained for may do without answers where what is measured may not."""
    write_rows([{"prompt": f"{i} and 1"} for i in range(40)])
    (tmp_path / "mine.py").write_text("def long(prompt, said, answer): return len(said)")
    learnt = {"reward": "mine.py:long", "generations": 2, "max_new_tokens": 4}
    with pytest.raises(RecipeError, match=r"^evaluation\.reward: contains compares"):
        go("grpo", reinforcement=learnt, evaluation={"reward": "contains", "max_new_tokens": None})


# Functions.


@pytest.fixture
def reward_of(tmp_path: Path) -> Callable[[str], Reward]:
    """Of the function `mine` in a file with that text."""

    def find(text: str) -> Reward:
        (tmp_path / "mine.py").write_text(text)
        return find_reward("mine.py:mine", tmp_path, "cpu", key="evaluation.reward")

    return find


def test_a_file_may_define_dataclasses(reward_of: Callable[[str], Reward]) -> None:
    """They look for their module by its name, which was not known: AttributeError."""
    reward = reward_of(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Weights:\n"
        "    length: float = 2.0\n"
        "def mine(prompt, said, answer): return Weights().length * len(said)\n"
    )
    assert reward.judge(["a"], ["b"], ["c"]) == [2.0]


@pytest.mark.parametrize("early", [True, False])
def test_a_file_may_import_its_neighbours(
    reward_of: Callable[[str], Reward], tmp_path: Path, early: bool
) -> None:
    """`import` found no file beside the reward's own."""
    name = f"neighbour_{'early' if early else 'late'}"
    (tmp_path / f"{name}.py").write_text("def half(x): return x / 2\n")
    imported = f"from {name} import half"
    head, body = (imported, "") if early else ("", f"    {imported}\n")
    reward = reward_of(f"{head}\ndef mine(prompt, said, answer):\n{body}    return half(len(said))")
    assert reward.judge(["a"], ["four"], ["c"]) == [2.0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1 / 0\ndef mine(prompt, said, answer): return 0", "imported: ZeroDivisionError"),
        ("def mine(prompt, said, answer) return 0", "imported: SyntaxError"),
        ("import no_such_module_at_all", "imported: ModuleNotFoundError"),
        ("def mine(prompt, said): return 0", "called with three arguments: too many positional"),
        ("def mine(*, prompt): return 0", "called with three arguments"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_before_training(
    reward_of: Callable[[str], Reward], text: str, part: str
) -> None:
    """Each ended in a traceback, the wrong number of arguments once the base had been scored."""
    with pytest.raises(RecipeError, match=r"^evaluation\.reward: ") as caught:
        reward_of(text)
    assert part in caught.value.message


# Reward models.


@pytest.fixture
def pairs(write_rows: Write) -> None:
    write_rows(
        [{"prompt": f"q {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    )


def edit(path: Path, **values: Any) -> None:
    read = json.loads(path.read_text())
    kept = {name: value for name, value in (read | values).items() if value is not None}
    path.write_text(json.dumps(kept))


def test_a_reward_model_knows_its_base_by_its_recipe(
    pairs: None, go: Callable[..., Result], tmp_path: Path
) -> None:
    """An adapter's own file has the last part of a folder's name alone, which led to no base and a traceback."""
    folder = go("reward").folder
    judged = find_reward("reward", tmp_path, "cpu").judge(["q 1"], ["yes 1"], [""])
    assert len(judged) == 1
    config = json.loads((folder / "adapter_config.json").read_text())
    assert "/" not in config["base_model_name_or_path"]


def test_a_reward_model_whose_base_was_moved_takes_the_runs_own(
    pairs: None, go: Callable[..., Result], base_folder: Path, tmp_path: Path
) -> None:
    """Where it has the same weights: else the reward would be that of another model."""
    (tmp_path / "old").mkdir()
    old = shutil.copytree(base_folder, tmp_path / "old" / "mine")
    folder = go("reward", base=str(old)).folder
    shutil.move(old, tmp_path / "new")
    with pytest.raises(RecipeError, match=r"^reinforcement\.reward: the base of the reward model"):
        find_reward("reward", tmp_path, "cpu")
    again = find_reward("reward", tmp_path, "cpu", own_base=str(tmp_path / "new"))
    assert len(again.judge(["q 1"], ["yes 1"], [""])) == 1
    edit(folder / "lineage.json", baseFingerprint="sha256:00")
    with pytest.raises(RecipeError, match="has other weights than the one that it was trained on"):
        find_reward("reward", tmp_path, "cpu", own_base=str(tmp_path / "new"))


def test_a_reward_model_on_a_base_that_pads_with_nothing(
    pairs: None, go: Callable[..., Result], base_folder: Path, tmp_path: Path
) -> None:
    """A token to pad with was set in training alone, and no two answers could be judged together."""
    base = shutil.copytree(base_folder, tmp_path / "no-padding")
    edit(base / "tokenizer_config.json", pad_token=None)
    edit(base / "config.json", pad_token_id=None)
    go("reward", base=str(base))
    judge = find_reward("reward", tmp_path, "cpu").judge
    together = judge(["q 1", "q 2"], ["yes", "a longer answer"], ["", ""])
    alone = judge(["q 2"], ["a longer answer"], [""]) + judge(["q 1"], ["yes"], [""])
    assert together == pytest.approx(alone[::-1], abs=1e-4)


def test_what_is_no_reward_model_is_told(
    go: Callable[..., Result], write_rows: Write, tmp_path: Path
) -> None:
    """A classifier has a head of another size, which PEFT told in a traceback; so had files that were cut off."""
    write_rows([{"text": f"red {i}", "label": "ab"[i % 2]} for i in range(40)])
    folder = go("classification").folder
    with pytest.raises(RecipeError, match="it takes one of `objective: reward`"):
        find_reward("classification", tmp_path, "cpu")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(RecipeError, match=r"adapter_config\.json cannot be read"):
        find_reward("classification", tmp_path, "cpu")
