"""Fill in what a recipe leaves open, with the reason for each choice. Pure: facts in, recipe out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import yaml

from lorry_trainer.recipe import (
    HELD,
    LORAS,
    OBJECTIVE_SECTIONS,
    SECTIONS,
    Columns,
    Quantization,
    Recipe,
)
from lorry_trainer.recipe.section import section_in

# As the QLoRA paper has it for 7B, 4096 wide; its 1e-4 for 33B and 65B, 6656 and 8192 wide, lies on the same line.
_RATE, _RATE_WIDTH = 2e-4, 4096


@dataclass(frozen=True)
class Facts:
    """What choices are made from, beside the recipe."""

    name: str  # the recipe's name, for the default output folder
    device: str  # cpu or cuda
    context_length: int  # of the base, in tokens
    width: int  # of the base's hidden states
    format: str  # found in the data
    columns: Columns  # likewise
    epoch_rows: int  # that the trainer takes in a pass: packed ones, or sampled answers
    longest_answer: int  # in tokens; 0 where none is generated
    metric: str  # the objective's first
    processes: int = 1  # that train together, each on its own part of a step's rows


@dataclass(frozen=True)
class Resolved:
    recipe: Recipe  # nothing is left open in it
    reasons: dict[str, str]  # field -> why it has its value, for each field that the user left open
    total_steps: int  # when nothing stops training early


def resolve(recipe: Recipe, facts: Facts) -> Resolved:
    """Resolving the result again, for the same facts, changes nothing."""
    chosen = _Choices(recipe.model_dump())
    _method(chosen, recipe)
    _data(chosen, recipe, facts)
    total_steps = _training(chosen, recipe, facts)
    _evaluation(chosen, recipe, facts)
    for kind, sections in ((recipe.method, SECTIONS), (recipe.objective, OBJECTIVE_SECTIONS)):
        for section, kinds in sections.items():
            if kind in kinds and chosen.values[section] is None:
                made = section_in(Recipe.model_fields[section].annotation)
                defaults = made().model_dump() if made else None
                chosen.choose("", section, defaults, f"{kind}'s defaults")
    chosen.choose("", "output", f"adapters/{facts.name}", "the recipe's name")
    return Resolved(Recipe.model_validate(chosen.values), chosen.reasons, total_steps)


class _Choices:
    """A recipe's values on their way to being complete, and why each has what it was given."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.reasons: dict[str, str] = {}

    def choose(self, section: str, field: str, value: Any, reason: str) -> None:
        """Where the user has left it open; `section` is "" for what stands outside of sections."""
        holder = self.values[section] if section else self.values
        if holder[field] in (None, "auto"):
            holder[field] = value
            self.reasons[f"{section}.{field}".strip(".")] = reason


def _method(chosen: _Choices, recipe: Recipe) -> None:
    if recipe.method in LORAS:
        chosen.choose("lora", "alpha", 2.0 * recipe.lora.rank, "twice the rank")
        for switch in ("rslora", "dora"):
            chosen.choose("lora", switch, recipe.method == switch, f"method: {recipe.method}")
    if "nf4" in HELD[recipe.method]:
        held = Quantization(type=HELD[recipe.method][0])
        why = "as the QLoRA paper has it" if recipe.method == "qlora" else "as it is served"
        chosen.choose("", "quantization", held.model_dump(), why)


def _data(chosen: _Choices, recipe: Recipe, facts: Facts) -> None:
    chosen.choose("data", "format", facts.format, "found from the columns")
    if facts.columns != recipe.data.columns:
        chosen.values["data"]["columns"] = facts.columns.model_dump()
        chosen.reasons["data.columns"] = "found in the file"
    packed = "what rows are packed into, the base's context at most"
    why = packed if recipe.training.packing else "the base's context"
    chosen.choose("data", "max_length", facts.context_length, why)


def _training(chosen: _Choices, recipe: Recipe, facts: Facts) -> int:
    """The optimizer steps of the whole run."""
    training, values = recipe.training, chosen.values
    on_cuda = facts.device == "cuda"
    chosen.choose("training", "device", facts.device, "what this machine has")
    chosen.choose("training", "processes", facts.processes, "as many as were started")
    if training.max_steps is None:
        chosen.choose("training", "epochs", 3.0, "the usual number")
    chosen.choose(
        "training",
        "learning_rate",
        float(f"{_RATE * math.sqrt(_RATE_WIDTH / facts.width):.1e}"),
        f"by the root of the base's width, {facts.width}",
    )
    quantized = (values["quantization"] or {}).get("type") == "nf4"
    if quantized and on_cuda:
        chosen.choose("training", "optimizer", "paged_adamw_32bit", "a quantized base on CUDA")
    else:
        why = f"{recipe.method} on {facts.device}"
        chosen.choose("training", "optimizer", "adamw_torch_fused", why)
    why = "saves memory on CUDA, time elsewhere"
    chosen.choose("training", "gradient_checkpointing", on_cuda, why)
    passes = math.ceil(facts.epoch_rows / (training.batch_size * facts.processes))
    steps_per_epoch = math.ceil(passes / training.gradient_accumulation)
    total = training.max_steps or math.ceil(values["training"]["epochs"] * steps_per_epoch)
    chosen.choose("training", "eval_steps", max(1, total // 10), "ten times in the run")
    return total


def _evaluation(chosen: _Choices, recipe: Recipe, facts: Facts) -> None:
    if facts.format == "text":
        chosen.choose("evaluation", "metric", "loss", "plain text has no answers to compare")
    chosen.choose("evaluation", "metric", facts.metric, f"{recipe.objective}'s first")
    if recipe.reinforcement is not None:
        learning = recipe.reinforcement
        chosen.choose("evaluation", "reward", learning.reward, "what is trained for")
        why = "as long as in training"
        chosen.choose("evaluation", "max_new_tokens", learning.max_new_tokens, why)
    if facts.longest_answer:
        longest = math.ceil(1.25 * facts.longest_answer)
        why = "a quarter more than the longest expected answer"
        chosen.choose("evaluation", "max_new_tokens", longest, why)


def to_yaml(resolved: Resolved) -> str:
    """The resolved recipe as a file, with the reasons as comments on top. It reads back as the same recipe."""
    comments = [f"#   {field}: {reason}" for field, reason in sorted(resolved.reasons.items())]
    if comments:
        comments.insert(0, "# Chosen by the trainer:")
    values = resolved.recipe.model_dump(mode="json", exclude_none=True)
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join([*comments, body])
