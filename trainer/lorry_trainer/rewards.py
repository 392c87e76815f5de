"""Rewards: a number for an answer to a prompt, from a rule, a function of the user's, or a trained reward model.

A rule is a function here and a line in `RULES`. A reward is asked with what was said and with the row's own answer.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorry_trainer.errors import RecipeError
from lorry_trainer.formats.contract import Text
from lorry_trainer.metrics import exact_match, normalised

# (prompts, what was said to each, the rows' answers) -> a number each
Reward = Callable[[list[Text], list[str], list[str]], list[float]]
Rule = Callable[[str, str], float]  # (what was said, the row's answer)


def contains(said: str, answer: str) -> float:
    return float(normalised(answer) in normalised(said))


def number(said: str, answer: str) -> float:
    """Whether the last number that is said is the last one of the answer: for sums with a worked way before them."""
    got, wanted = _last_number(said), _last_number(answer)
    return float(got is not None and got == wanted)


RULES: dict[str, Rule] = {"exact_match": exact_match, "contains": contains, "number": number}


def find_reward(name: str, folder: Path, device: str) -> Reward:
    """The reward that a recipe names: a rule, `FILE.py:FUNCTION`, or the folder of an adapter with `objective: reward`.

    Paths start at `folder`, the recipe's. Raises RecipeError.
    """
    if name in RULES:
        rule = RULES[name]
        return lambda _, said, answers: [rule(s, a) for s, a in zip(said, answers, strict=True)]
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _from_file(folder / file, function)
    if (folder / name / "adapter_config.json").is_file():
        return _from_model(folder / name, device)
    raise RecipeError(
        f"reinforcement.reward {name!r} is none of {', '.join(RULES)}, no FILE.py:FUNCTION, and no folder of an "
        f"adapter that `objective: reward` trained (looked for {folder / name})"
    )


def _from_file(file: Path, function: str) -> Reward:
    spec = importlib.util.spec_from_file_location("lorry_reward", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise RecipeError(f"reinforcement.reward: there is no file {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    judge = getattr(module, function, None)
    if not callable(judge):
        raise RecipeError(f"reinforcement.reward: {file} has no function {function!r}")

    def reward(prompts: list[Text], said: list[str], answers: list[str]) -> list[float]:
        return [float(judge(*row)) for row in zip(prompts, said, answers, strict=True)]

    return reward


def _from_model(folder: Path, device: str) -> Reward:
    """The base that the adapter was trained on, loaded once more with the adapter's own head."""
    import json

    from peft import PeftModel

    from lorry_bases.load import load_base
    from lorry_trainer.objectives.reward import HEAD, rewards

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("task_type") != "SEQ_CLS":
        raise RecipeError(
            f"reinforcement.reward: the adapter in {folder} was trained for {config.get('task_type')}; "
            "it takes one of `objective: reward`"
        )
    base = load_base(config["base_model_name_or_path"], device=device, head=HEAD)
    base.model.config.pad_token_id = base.tokenizer.pad_token_id if base.tokenizer else None
    model: Any = PeftModel.from_pretrained(base.model, folder)

    def reward(prompts: list[Text], said: list[str], answers: list[str]) -> list[float]:
        pairs = [(p, _as_answer(p, s)) for p, s in zip(prompts, said, strict=True)]
        return rewards(base, model, pairs)

    return reward


def _as_answer(prompt: Text, said: str) -> Text:
    return said if isinstance(prompt, str) else [{"role": "assistant", "content": said}]


def _last_number(text: str) -> float | None:
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None
