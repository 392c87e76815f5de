"""A reward that is a function of the user's, in a file of Python beside the recipe."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lorry_trainer.errors import RecipeError

if TYPE_CHECKING:
    from lorry_trainer.formats.contract import Text
    from lorry_trainer.rewards import Judge

_TAKES = "It takes prompt, answer, and the row's own answer, and returns a number"


def from_file(file: Path, function: str, key: str) -> Judge:
    """`key` stands in messages. Raises RecipeError, as what it returns does."""
    given = getattr(_module(file, key), function, None)
    if not callable(given):
        raise RecipeError(f"{key}: {file} has no function {function!r}")
    what = f"{key}: {function} of {file}"
    _refuse_signature(given, what)

    def judge(prompts: list[Text], said: list[str], answers: list[str]) -> list[float]:
        return [one(*row) for row in zip(prompts, said, answers, strict=True)]

    def one(prompt: Text, said: str, answer: str) -> float:
        try:
            earned = float(given(prompt, said, answer))
        except Exception as error:  # whatever a function of the user's may raise
            raise RecipeError(
                f"{what} failed for the answer {said[:80]!r}: {type(error).__name__}: {error}. {_TAKES}"
            ) from error
        if not math.isfinite(earned):
            raise RecipeError(
                f"{what} gave {earned} for the answer {said[:80]!r}; return a finite number for "
                "every answer, the lowest for one that cannot be judged"
            )
        return earned

    return judge


def _module(file: Path, key: str) -> ModuleType:
    """As Python runs a script: known by its name, which dataclasses look for, and with its neighbours to import."""
    name = f"lorry_reward_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise RecipeError(f"{key}: there is no file {file}")
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(
            folder
        )  # behind the libraries: a neighbour that is called like one hides none
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's may raise
        del sys.modules[name]
        raise RecipeError(
            f"{key}: {file} cannot be imported: {type(error).__name__}: {error}. Try `python {file.name}` in its folder"
        ) from error
    return module


def _refuse_signature(given: Any, what: str) -> None:
    """Raise RecipeError before anything is trained where it cannot be called as it will be."""
    try:
        signature = inspect.signature(given)
    except ValueError:  # some that are written in C tell none
        return
    try:
        signature.bind("prompt", "said", "answer")
    except TypeError as error:
        raise RecipeError(
            f"{what} cannot be called with three arguments: {error}. {_TAKES}"
        ) from error
