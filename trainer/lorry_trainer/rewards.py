"""Rewards: a number for an answer to a prompt, from a rule, a function of the user's, or a trained reward model.

A rule is a function here and a line in `RULES`. A reward is asked with what was said and with the row's own answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorry_trainer import processes
from lorry_trainer.bootstrap import Interval, of_means
from lorry_trainer.errors import RecipeError
from lorry_trainer.formats.contract import Example, Text
from lorry_trainer.metrics import exact_match, normalised, wins
from lorry_trainer.reward_function import from_file
from lorry_trainer.reward_model import from_folder

if TYPE_CHECKING:
    from lorry_trainer.recipe import Recipe

# (prompts, what was said to each, the rows' answers) -> a number each
Judge = Callable[[list[Text], list[str], list[str]], list[float]]
Rule = Callable[[str, str], float]  # (what was said, the row's answer)


@dataclass(frozen=True)
class Reward:
    judge: Judge
    digest: str  # of what it is made from: another digest, another reward


@dataclass(frozen=True)
class Rewards:
    """What a run is trained to earn, and what its answers to the test rows are judged by."""

    training: Reward | None
    test: Reward | None


def contains(said: str, answer: str) -> float:
    return float(normalised(answer) in normalised(said))


def number(said: str, answer: str) -> float:
    """Whether the last number that is said is the last one of the answer: for sums with a worked way before them."""
    got, wanted = _last_number(said), _last_number(answer)
    return float(got is not None and got == wanted)


RULES: dict[str, Rule] = {"exact_match": exact_match, "contains": contains, "number": number}


def refuse_unearnable(name: str | None, rows: Sequence[Example], key: str) -> None:
    """Raise RecipeError where a rule is to compare with an answer that a row has not: it would give the same for
    whatever is said. `key` says where the rule is named."""
    if name not in RULES:
        return
    for row in rows:
        if not normalised(row.answer):
            raise RecipeError(
                f"{key}: {name} compares with a row's own answer, and {row.place} has none; give every row its answer, "
                "or name FILE.py:FUNCTION, or the folder of a reward model"
            )
        if not RULES[name](row.answer, row.answer):
            raise RecipeError(
                f"{key}: by {name} the right answer of {row.place}, {row.answer[:80]!r}, earns nothing itself; take "
                "exact_match or contains, or mend the row"
            )


def earned(
    ours: list[float], theirs: list[float] | None, seed: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    """From each row's reward: `reward`, the mean of ours, and `win_rate`, ours over theirs where there are some; with
    their intervals."""
    each = {"reward": ours} | ({} if theirs is None else {"win_rate": wins(ours, theirs)})
    means = {name: sum(values) / len(values) for name, values in each.items()}
    return means, of_means(each, seed)


def find_rewards(recipe: Recipe, folder: Path, device: str) -> Rewards:
    """Those of a resolved recipe; one that is named twice is loaded once, and what judges test rows only where they are
    scored, in the first process. Raises RecipeError."""
    learnt = recipe.reinforcement.reward if recipe.reinforcement else None
    training = find_reward(learnt, folder, device, own_base=recipe.base) if learnt else None
    asked = recipe.evaluation.reward
    if asked in (None, learnt) or not processes.is_first():
        return Rewards(training, training)
    test = find_reward(asked, folder, device, key="evaluation.reward", own_base=recipe.base)
    return Rewards(training, test)


def find_reward(
    name: str,
    folder: Path,
    device: str | None,
    *,
    key: str = "reinforcement.reward",
    own_base: str | None = None,
) -> Reward:
    """The reward of that name: a rule, `FILE.py:FUNCTION`, or the folder of an adapter with `objective: reward`.

    Paths start at `folder`, the recipe's; an adapter may also stand where `lorry train` runs, which writes it there.
    `key` stands in messages; without a `device`, a model is where the base finds one; `own_base` is the run's. Raises
    RecipeError.
    """
    if name in RULES:
        rule = RULES[name]

        def by_rule(_: list[Text], said: list[str], answers: list[str]) -> list[float]:
            return [rule(s, a) for s, a in zip(said, answers, strict=True)]

        return Reward(by_rule, name)
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        judge = from_file(folder / file, function, key)
        return Reward(judge, f"{_digest(folder / file)} {function}")
    places = dict.fromkeys((folder / name, Path(name).absolute()))
    for place in places:
        if (place / "adapter_config.json").is_file():
            judge = from_folder(place, device, key, own_base)
            return Reward(judge, _digest(place / "adapter_model.safetensors"))
    raise RecipeError(
        f"{key} {name!r} is none of {', '.join(RULES)}, no FILE.py:FUNCTION, and no folder of an "
        f"adapter that `objective: reward` trained (looked for {' and '.join(map(str, places))})"
    )


def _digest(file: Path) -> str:
    return "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def _last_number(text: str) -> float | None:
    found = re.findall(r"(?:(?<![\w.)])-)?\d[\d,]*(?:\.\d+)?", text)  # the 7 of 3-7 is no -7
    return float(found[-1].replace(",", "")) if found else None
