"""Score a model on the untouched test rows: as it is asked, with solved examples before, and on general text."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry_trainer.bootstrap import of_means
from lorry_trainer.data import choose
from lorry_trainer.errors import DataError, TrainingError
from lorry_trainer.formats.contract import Example
from lorry_trainer.memory import SCORING, told_when_out
from lorry_trainer.metrics import wins
from lorry_trainer.prepare import Prepared
from lorry_trainer.progress import Progress, Silent
from lorry_trainer.prompts import encode
from lorry_trainer.read import read_source
from lorry_trainer.rewards import earned
from lorry_trainer.shots import with_shots

if TYPE_CHECKING:
    from lorry_trainer.objectives.contract import Scores

_PIECE = 256  # tokens of general text that are read at once


def score(
    run: Prepared, model: Any, progress: Progress, stage: str, bare: Scores | None = None
) -> Scores | None:
    """None without test rows. `bare` are the bare base's, which win rates are over; itself it wins half."""
    if not run.test:
        return None
    progress.start(stage, len(run.test))
    return _scored(run, model, run.test, bare, progress)


def _scored(
    run: Prepared, model: Any, rows: list[Example], bare: Scores | None, progress: Progress
) -> Scores:
    """`rows` are the test rows, perhaps with more before their questions."""
    with told_when_out(SCORING):
        scores = run.objective.score(run.base, model, rows, run.data, run.recipe, progress)
        return _rewarded(run, model, _held_to_base(scores, bare, run.recipe.training.seed), bare)


def score_base(run: Prepared, progress: Progress) -> Scores | None:
    """Raises TrainingError where the bare base is broken: nothing can be learnt on it, at whatever rate."""
    scores = score(run, run.base.model, progress, "scoring base")
    loss = scores.metrics.get("loss", 0.0) if scores else 0.0
    if not math.isfinite(loss):
        raise TrainingError(
            f"the bare base's loss on the test rows is {loss}: its weights hold what is no number, or overflow. Take "
            "another copy of the base, or another base"
        )
    return scores


def _held_to_base(scores: Scores, bare: Scores | None, seed: int) -> Scores:
    """With how often a pair's margin is above the bare base's, which is the accuracy of DPO's implicit reward, the log
    of model over reference (Rafailov et al. 2023, section 4); itself the base has half."""
    if not scores.margins:
        return scores
    better = {"reward_accuracy": wins(scores.margins, bare.margins if bare else scores.margins)}
    return replace(
        scores,
        metrics=scores.metrics | {name: sum(of) / len(of) for name, of in better.items()},
        intervals=scores.intervals | of_means(better, seed),
    )


def _rewarded(run: Prepared, model: Any, scores: Scores, bare: Scores | None) -> Scores:
    """With what the answers earn, where the recipe names a reward. Answers that the objective only compares are given
    in the model's own words then."""
    if run.rewards.test is None:
        return scores
    answers = scores.answers
    if not run.objective.generates:
        from lorry_trainer.objectives.answers import answered

        answers = answered(run.base, model, run.test, run.recipe, Silent())
    prompts, expected = [row.prompt for row in run.test], [row.answer for row in run.test]
    rewards = run.rewards.test.judge(prompts, answers, expected)
    rivals = bare.rewards if bare else rewards
    figures, sure = earned(rewards, rivals, run.recipe.training.seed)
    return replace(
        scores,
        answers=answers,
        rewards=rewards,
        metrics=figures | scores.metrics,
        intervals=scores.intervals | sure,
    )


def score_with_shots(run: Prepared, progress: Progress, bare: Scores | None) -> Scores | None:
    """The bare base's with `evaluation.shots` solved training rows before each question; None where none are asked."""
    wanted = run.recipe.evaluation.shots
    if not wanted or not run.test or run.objective.task != "CAUSAL_LM" or not run.test[0].prompt:
        return None
    shown = choose(run.data.train, wanted, run.recipe.training.seed)
    room = run.base.context_length - (run.recipe.evaluation.max_new_tokens or 1)
    tokenizer = run.base.tokenizer
    rows = with_shots(
        run.test, shown, room, lambda prompt: len(encode(tokenizer, prompt, to_answer=True))
    )
    progress.start("scoring shots", len(rows))
    return _scored(run, run.base.model, rows, bare, progress)


def read_general(run: Prepared, folder: Path) -> list[tuple[list[int], int]]:
    """`evaluation.general` in pieces of token ids; nothing where none is named. Raises DataError."""
    name = run.recipe.evaluation.general
    if name is None:
        return []
    if name.endswith(".txt"):
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"evaluation.general: {name} cannot be read: {error}") from error
    else:
        source = read_source(name, folder)
        if lacking := [
            row.place for row in source.rows if not isinstance(row.values.get("text"), str)
        ]:
            raise DataError(f"{lacking[0]}: no `text`, which evaluation.general reads")
        text = "\n\n".join(row.values["text"] for row in source.rows)
    ids = encode(run.base.tokenizer, text)
    if len(ids) < 2:
        raise DataError(f"evaluation.general: {name} has no text")
    size = min(_PIECE, run.base.context_length // 2)
    pieces = [ids[at : at + size] for at in range(0, min(len(ids), 64 * size), size)]
    return [(piece, 1) for piece in pieces if len(piece) > 1]


def general_loss(run: Prepared, model: Any, pieces: list[tuple[list[int], int]]) -> float | None:
    """Per token; None without a general text."""
    from lorry_trainer.generation import pad_id
    from lorry_trainer.likelihood import token_loss

    if not pieces:
        return None
    pad = pad_id(run.base.tokenizer, run.base.eos_token_ids)
    return token_loss(model.eval(), pieces, pad, run.recipe.evaluation.batch_size)
