"""The adapter folder's README: what it is, what it scores, how to use it."""

from __future__ import annotations

import json

from lorry_bases import shipped
from lorry_trainer.data import Examples
from lorry_trainer.figures import side_by_side
from lorry_trainer.formats.contract import Example
from lorry_trainer.recipe import FACTORS, Recipe
from lorry_trainer.wording import counted

# objective -> the hub's name for such a task, and the class that loads a base with its head; for all others as for sft
_TASKS = {
    "sft": ("text-generation", "AutoModelForCausalLM"),
    "classification": ("text-classification", "AutoModelForSequenceClassification"),
    "reward": ("text-classification", "AutoModelForSequenceClassification"),
    "tokens": ("token-classification", "AutoModelForTokenClassification"),
    "extraction": ("question-answering", "AutoModelForQuestionAnswering"),
}


_BOTTLENECK = "from lorry_trainer.methods.bottleneck import load_bottleneck"


def card(
    name: str,
    recipe: Recipe,
    base_name: str,
    data: Examples,
    metrics: dict[str, float],
    samples: list[tuple[Example, str, str]],  # (row, the base's answer, the adapter's answer)
    num_labels: int,  # of the head, where the base has one
) -> str:
    task, base_class = _TASKS.get(recipe.objective, _TASKS["sft"])
    kind = f"Rank {recipe.lora.rank} {recipe.method}" if recipe.method in FACTORS else recipe.method
    lines = [
        "---",
        f"base_model: {json.dumps(base_name)}",
        "library_name: peft",
        f"pipeline_tag: {task}",
        f"tags: [lorry, {recipe.method}]",
        "---",
        f"# {name}",
        "",
        recipe.description or "An adapter trained by Lorry.",
        "",
        f"{kind} on `{base_name}`, from {counted(len(data.train), 'row')} "
        f"({len(data.validation)} to validate, {len(data.test)} to test). `recipe.yaml` holds every setting, "
        "`lineage.json` the digests of base and data, `loss.png` the loss.",
    ]
    if samples:
        headings, rows = side_by_side(metrics, [("base", "base_test_"), ("adapter", "test_")])
        table = [
            [f"held-out, {counted(len(samples), 'row')}", *headings],
            ["---"] * (1 + len(headings)),
            *rows,
        ]
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in table)]
        for row, before, after in samples[:3]:
            lines += [
                "",
                *(
                    f"    {label:<9}{_one_line(text)}"
                    for label, text in (
                        ("prompt", row.asked),
                        ("expected", row.answer),
                        ("base", before),
                        ("adapter", after),
                    )
                ),
            ]
    head = num_labels if task.endswith("classification") else None
    lines += ["", "```python", *_use(name, recipe, base_name, base_class, head), "```", ""]
    return "\n".join(lines)


def _use(
    name: str, recipe: Recipe, base_name: str, base_class: str, num_labels: int | None
) -> list[str]:
    """Lines of Python that load the adapter without Lorry's server."""
    comes_with_lorry = base_name in shipped()
    where = f'resolve("{base_name}")' if comes_with_lorry else f'"{base_name}"'
    head = f", num_labels={num_labels}" if num_labels is not None else ""
    lines = ["from lorry_bases import resolve"] if comes_with_lorry else []
    if recipe.method == "bottleneck":
        lines = ["from pathlib import Path", "", *lines, _BOTTLENECK]
        load = f'load_bottleneck(base, Path("{name}"))'
    else:
        lines.append("from peft import PeftModel")
        load = f'PeftModel.from_pretrained(base, "{name}")'
    return [
        *lines,
        f"from transformers import {base_class}",
        "",
        f"base = {base_class}.from_pretrained({where}{head})",
        f"model = {load}",
    ]


def _one_line(text: str, limit: int = 160) -> str:
    flat = " ⏎ ".join(line.strip() for line in text.splitlines() if line.strip())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
