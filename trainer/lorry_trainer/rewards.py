"""Rewards: a number for an answer to a prompt, from a rule, a function of the user's, or a trained reward model.

A rule is a function here and a line in `RULES`. A reward is asked with what was said and with the row's own answer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry_trainer import processes
from lorry_trainer.bootstrap import Interval, of_means
from lorry_trainer.errors import RecipeError
from lorry_trainer.formats.contract import Text
from lorry_trainer.metrics import exact_match, normalised, wins

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
    training = find_reward(learnt, folder, device) if learnt else None
    asked = recipe.evaluation.reward
    if asked in (None, learnt) or not processes.is_first():
        return Rewards(training, training)
    return Rewards(training, find_reward(asked, folder, device, key="evaluation.reward"))


def find_reward(
    name: str, folder: Path, device: str | None, *, key: str = "reinforcement.reward"
) -> Reward:
    """The reward of that name: a rule, `FILE.py:FUNCTION`, or the folder of an adapter with `objective: reward`.

    Paths start at `folder`, the recipe's; an adapter may also stand where `lorry train` runs, which writes it there.
    `key` stands in messages; without a `device`, a model is where the base finds one. Raises RecipeError.
    """
    if name in RULES:
        rule = RULES[name]

        def judge(_: list[Text], said: list[str], answers: list[str]) -> list[float]:
            return [rule(s, a) for s, a in zip(said, answers, strict=True)]

        return Reward(judge, name)
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _from_file(folder / file, function, key)
    places = dict.fromkeys((folder / name, Path(name).absolute()))
    for place in places:
        if (place / "adapter_config.json").is_file():
            return _from_model(place, device, key)
    raise RecipeError(
        f"{key} {name!r} is none of {', '.join(RULES)}, no FILE.py:FUNCTION, and no folder of an "
        f"adapter that `objective: reward` trained (looked for {' and '.join(map(str, places))})"
    )


def _from_file(file: Path, function: str, key: str) -> Reward:
    spec = importlib.util.spec_from_file_location("lorry_reward", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise RecipeError(f"{key}: there is no file {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = getattr(module, function, None)
    if not callable(given):
        raise RecipeError(f"{key}: {file} has no function {function!r}")

    def judge(prompts: list[Text], said: list[str], answers: list[str]) -> list[float]:
        return [one(*row) for row in zip(prompts, said, answers, strict=True)]

    def one(prompt: Text, said: str, answer: str) -> float:
        try:
            earned = float(given(prompt, said, answer))
        except Exception as error:  # whatever a function of the user's may raise
            raise RecipeError(
                f"{key}: {function} of {file} failed for the answer {said[:80]!r}: {type(error).__name__}: {error}. It "
                "takes prompt, answer, and the row's own answer, and returns a number"
            ) from error
        if not math.isfinite(earned):
            raise RecipeError(
                f"{key}: {function} of {file} gave {earned} for the answer {said[:80]!r}; return a finite number for "
                "every answer, the lowest for one that cannot be judged"
            )
        return earned

    return Reward(judge, f"{_digest(file)} {function}")


def _from_model(folder: Path, device: str | None, key: str) -> Reward:
    """The base that the adapter was trained on, loaded once more with the adapter's own head."""
    import json

    from peft import PeftModel

    from lorry_bases.load import load_base
    from lorry_trainer.objectives.reward import HEAD, rewards

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("task_type") != "SEQ_CLS":
        raise RecipeError(
            f"{key}: the adapter in {folder} was trained for {config.get('task_type')}; "
            "it takes one of `objective: reward`"
        )
    base = load_base(config["base_model_name_or_path"], device=device, head=HEAD)
    base.model.config.pad_token_id = base.tokenizer.pad_token_id if base.tokenizer else None
    model: Any = PeftModel.from_pretrained(base.model, folder)

    def judge(prompts: list[Text], said: list[str], answers: list[str]) -> list[float]:
        pairs = [(p, _as_answer(p, s)) for p, s in zip(prompts, said, strict=True)]
        return rewards(base, model, pairs)

    return Reward(judge, _digest(folder / "adapter_model.safetensors"))


def _digest(file: Path) -> str:
    return "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def _as_answer(prompt: Text, said: str) -> Text:
    return said if isinstance(prompt, str) else [{"role": "assistant", "content": said}]


def _last_number(text: str) -> float | None:
    found = re.findall(r"(?:(?<![\w.)])-)?\d[\d,]*(?:\.\d+)?", text)  # the 7 of 3-7 is no -7
    return float(found[-1].replace(",", "")) if found else None
