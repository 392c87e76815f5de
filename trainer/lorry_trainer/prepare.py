"""From a recipe to all that training needs, nothing trained yet: rows, base, and the recipe with nothing left open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorry_trainer import processes
from lorry_trainer.data import Examples, choose, load, within
from lorry_trainer.errors import RecipeError
from lorry_trainer.formats.contract import Example
from lorry_trainer.gate import refuse_unreachable
from lorry_trainer.launcher import refuse_other_wishes
from lorry_trainer.memory import LOADING, told_when_out
from lorry_trainer.objectives import OBJECTIVES, find
from lorry_trainer.progress import Progress, Silent
from lorry_trainer.recipe import FREE, HELD, Recipe
from lorry_trainer.resolve import Facts, Resolved, resolve
from lorry_trainer.rewards import Rewards, find_rewards, refuse_unearnable
from lorry_trainer.targets import refuse_targets

if TYPE_CHECKING:
    from lorry_bases import Quantization
    from lorry_bases.load import Base
    from lorry_trainer.objectives.contract import Objective


# Tokens of a packed row where the recipe does not say, as TRL has it: a whole context of rows may be too much at once.
PACKED = 1024


@dataclass(frozen=True)
class Prepared:
    name: str
    resolved: Resolved
    data: Examples
    test: list[Example]  # the test rows that are scored
    objective: Objective
    base: Base
    rewards: Rewards

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe


def prepare_data(recipe: Recipe, folder: Path, progress: Progress) -> Examples:
    """What can be refused without loading the base. Raises DataError."""
    data = load(recipe.data, folder, recipe.training.seed, OBJECTIVES[recipe.objective])
    for note in data.notes:
        progress.say(note)
    return data


def prepare(
    recipe: Recipe,
    name: str,
    data: Examples,
    load: Callable[[Recipe, Objective, Examples], Base] | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The base, and the rows as it reads them. `load` may hand out one that is loaded already; `progress` hears of
    rows that are left out.

    Raises RecipeError or DataError.
    """
    objective = find(recipe.objective)
    _refuse_unmeasured(recipe, objective)
    refuse_unreachable(recipe.require)
    refuse_other_wishes(on_cuda=recipe.training.device != "cpu" and _has_cuda())
    _refuse_unheard(recipe, objective, data)
    base = (load or load_base)(recipe, objective, data)
    objective.refuse(base, data, recipe)
    refuse_targets(base, recipe)
    limit = _longest_row(recipe, base)
    skip = recipe.data.unfit == "skip"
    told = len(data.notes)
    fitting = within(data, limit, skip, lambda rows: objective.lengths(base, rows, recipe))
    if fitting is not data:
        data = fitting
        objective.refuse(base, data, recipe)  # of all labels there may be none left of one
    for note in data.notes[told:]:
        (progress or Silent()).say(note)
    facts = Facts(
        name=name,
        device=base.model.device.type,
        context_length=limit,
        width=base.model.config.get_text_config().hidden_size,
        format=data.format,
        columns=data.columns,
        epoch_rows=objective.rows_per_epoch(base, data.train, recipe, limit),
        processes=processes.together(recipe.training.processes),
        longest_answer=(
            objective.answer_length(base, data.train)
            if (objective.generates and data.format != "text") or recipe.evaluation.reward
            else 0
        ),
        metric=objective.metrics[0],
    )
    resolved = resolve(recipe, facts)
    test = choose(data.test, recipe.evaluation.max_rows, recipe.training.seed)
    rewards = find_rewards(resolved.recipe, data.folder, str(base.model.device))
    return Prepared(name, resolved, data, test, objective, base, rewards)


def _refuse_unmeasured(recipe: Recipe, objective: Objective) -> None:
    """Raise RecipeError where a figure is asked for that this objective never has."""
    earned = ("reward", "win_rate") if recipe.evaluation.reward else ()
    known = tuple(dict.fromkeys((*objective.metrics, *earned)))
    asked = {f"require.{name}": str(name) for name in recipe.require}
    if recipe.evaluation.metric:
        asked["evaluation.metric"] = recipe.evaluation.metric
    for key, name in asked.items():
        if name not in known:
            way = (
                ", or name an evaluation.reward"
                if name in ("reward", "win_rate") and recipe.objective in FREE
                else ""
            )
            raise RecipeError(
                f"{key}: {name} is no figure of objective {recipe.objective}; choose of {', '.join(known)}{way}"
            )


def _refuse_unheard(recipe: Recipe, objective: Objective, data: Examples) -> None:
    """Raise RecipeError where a key says nothing, the rows being what they are."""
    evaluation = recipe.evaluation
    for key in ("reward", "max_new_tokens", "shots"):
        if data.format == "text" and getattr(evaluation, key):
            raise RecipeError(
                f"evaluation.{key}: rows of plain text ask nothing that could be answered; leave it out"
            )
    learnt = recipe.reinforcement.reward if recipe.reinforcement else None
    refuse_unearnable(learnt, data.train, "reinforcement.reward")
    judging = "evaluation" if evaluation.reward else "reinforcement"
    refuse_unearnable(evaluation.reward or learnt, data.test, f"{judging}.reward")
    if not data.test and (recipe.require or evaluation.shots):
        key = "require" if recipe.require else "evaluation.shots"
        raise RecipeError(f"{key}: there are no test rows to score; raise data.splits.test")
    patient = recipe.training.asks("early_stopping_patience")
    if objective.validates and not data.validation and patient:
        raise RecipeError(
            "training.early_stopping_patience: there are no validation rows to stop by; raise data.splits.validation"
        )


def held(recipe: Recipe) -> Quantization:
    """How the base is held in training: as the recipe says, or as its method has it."""
    from lorry_bases import Quantization

    given = recipe.quantization
    kind = given.type if given else HELD[recipe.method][0]
    return Quantization(type=kind, double=kind == "nf4" and (given is None or given.double))


def load_base(recipe: Recipe, objective: Objective, data: Examples) -> Base:
    """As the recipe asks for it. Raises RecipeError."""
    from lorry_bases import BaseNotFound
    from lorry_bases.load import BaseRefused

    device = recipe.training.device
    if device == "cuda" and not _has_cuda():
        raise RecipeError(
            "training.device is cuda, and this machine has none that torch can use; set it to auto"
        )
    try:
        with told_when_out(LOADING):
            return objective.load(recipe, data, held(recipe), processes.device(device))
    except (BaseNotFound, BaseRefused) as error:
        raise RecipeError(f"base: {error}") from error


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _longest_row(recipe: Recipe, base: Base) -> int:
    """In tokens: what the recipe allows, and the base has room for beside the adapter's virtual tokens."""
    from lorry_trainer.methods import METHODS

    virtual = METHODS[recipe.method].virtual_tokens(recipe)
    room = base.context_length - virtual
    usual = min(room, PACKED) if recipe.training.packing else room
    wanted = recipe.data.max_length or usual
    if wanted > room or room < 1:
        beside = f" beside {virtual} virtual ones" if virtual else ""
        raise RecipeError(
            f"data.max_length is {wanted}, and {base.name!r} takes {room} tokens{beside} at most"
        )
    return wanted
