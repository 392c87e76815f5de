"""Answers to prompts as a model reads them, how likely it finds each, and how often it finds the better of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lorry_bases.load import Base
from lorry_trainer.bootstrap import of_means
from lorry_trainer.formats.contract import Example, Text
from lorry_trainer.generation import generate, pad_id
from lorry_trainer.likelihood import Scored, token_losses, tokens_of
from lorry_trainer.objectives.contract import Scores
from lorry_trainer.progress import Progress
from lorry_trainer.recipe import Recipe
from lorry_trainer.shots import own_answer

Pair = tuple[Text, Text]  # prompt, answer


def read(base: Base, prompt: Text, answer: Text) -> Scored:
    """Prompt and answer as one row, the way TRL trains on it, and how many of its tokens are the prompt's."""
    return tokens_of(base.tokenizer, prompt, prompt + answer)  # type: ignore[operator]


def answered(
    base: Base, model: Any, rows: list[Example], recipe: Recipe, progress: Progress
) -> list[str]:
    """What the model says to each row's prompt, greedily; `recipe` is a resolved one."""
    answers = generate(
        model,
        base.tokenizer,
        rows,
        eos_token_ids=base.eos_token_ids,
        max_new_tokens=recipe.evaluation.max_new_tokens or 1,
        batch_size=recipe.evaluation.batch_size,
        progress=progress,
    )
    return [own_answer(row, said) for row, said in zip(rows, answers, strict=True)]


def longest(base: Base, rows: list[Example], columns: tuple[str, ...]) -> list[int]:
    """Tokens of each row's prompt with the longest of its answers."""
    return [
        max(len(read(base, row.record["prompt"], row.record[name])[0]) for name in columns)
        for row in rows
    ]


def longest_answer(base: Base, rows: list[Example], columns: tuple[str, ...]) -> int:
    """Tokens of the longest answer of all rows."""
    return max(
        len(ids) - given
        for row in rows
        for name in columns
        for ids, given in [read(base, row.record["prompt"], row.record[name])]
    )


def answer_logprobs(base: Base, model: Any, pairs: list[Pair], batch_size: int) -> np.ndarray:
    """[num_pairs, 2], in nats: the log-probability of an answer per token, and of the whole answer."""
    pad = pad_id(base.tokenizer, base.eos_token_ids)
    rows = [read(base, *pair) for pair in pairs]
    losses = token_losses(model.eval(), rows, pad, batch_size)
    return np.array([(-total / count, -total) for total, count in losses])


def margins(
    rows: list[Example],
    value: Callable[[list[Pair]], np.ndarray],
    batch_size: int,
    progress: Progress,
) -> np.ndarray:
    """By how much a chosen answer's value is above a rejected one's: [num_rows, …], as `value` gives [num_pairs, …]."""
    found: list[np.ndarray] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        chosen, rejected = (
            value([(row.record["prompt"], row.record[name]) for row in batch])
            for name in ("chosen", "rejected")
        )
        found.append(chosen - rejected)
        progress.advance(len(batch))
    return np.concatenate(found)


def preferred(margins: np.ndarray, name: str, seed: int) -> Scores:
    """How often, and by how much (the figure `name`), the chosen answer is above the rejected one."""
    each = {"preference_accuracy": (margins > 0).astype(float), name: margins}
    return Scores(
        {name: float(values.mean()) for name, values in each.items()},
        ["chosen" if margin > 0 else "rejected" for margin in margins],
        intervals=of_means(each, seed),
    )
