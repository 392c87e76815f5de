"""A version's model card: Markdown with the front matter that hubs read, out of what the registry knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorry_client.results import Dataset, Evaluation, Lineage, Version


def render_card(version: Version, evaluations: Iterable[Evaluation] = ()) -> str:
    """The card; JSON is YAML, so the front matter needs no library to be right."""
    lineage, name = version.lineage, f"{version.adapter}:{version.number}"
    head = {
        "library_name": "peft",
        "base_model": lineage.base_name,
        "tags": ["lorry", version.spec.peft_type.lower(), *sorted(version.labels.values())],
        "datasets": [dataset.name for dataset in lineage.datasets if "/" in dataset.name],
        "model-index": _index(name, version, evaluations),
    }
    front = [f"{key}: {_yaml(value)}" for key, value in head.items() if value]
    blocks = ["---", *front, "---", "", f"# {_inline(name)}"]
    for block in (
        [version.description],
        _state(version),
        _facts(version),
        _table("Metrics", lineage.metrics),
        _evaluations(evaluations),
        _data(lineage.datasets),
        _code("Recipe", "yaml", lineage.recipe),
        _code("Use it", "python", _use(version)),
    ):
        text = [line for line in block if line is not None]
        if any(text):
            blocks += ["", *text]
    return "\n".join(blocks) + "\n"


def _state(version: Version) -> list[str]:
    if version.block_reason is not None:
        return [f"> **Blocked**: {_inline(version.block_reason)}"]
    if version.deprecation is None:
        return []
    instead = version.deprecation.replacement
    use = f" Use `{instead}`." if instead else ""
    return [f"> **Deprecated**: {_inline(version.deprecation.reason)}.{use}"]


def _facts(version: Version) -> list[str]:
    spec, lineage = version.spec, version.lineage
    facts = {
        "Digest": f"`{version.digest}`",
        "Base": _base(lineage),
        "Kind": f"{spec.peft_type}, rank up to {spec.max_rank}, on {spec.module_count} modules",
        "Numbers": f"{spec.parameter_count:,} ({version.size_bytes:,} bytes)",
        "Published": f"{version.create_time:%Y-%m-%d %H:%M} UTC" if version.create_time else "",
        "Made by": _inline(lineage.producer),
        "Code": f"`{lineage.code_revision}`" if lineage.code_revision else "",
        "Made from": ", ".join(f"`{parent}`" for parent in lineage.parents),
        "Labels": ", ".join(f"`{key}={value}`" for key, value in sorted(version.labels.items())),
    }
    return ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in facts.items() if v)]


def _base(lineage: Lineage) -> str:
    return f"{_inline(lineage.base_name)} `{lineage.base_fingerprint}`".strip()


def _table(title: str, metrics: Mapping[str, float]) -> list[str]:
    if not metrics:
        return []
    rows = [f"| {_inline(name)} | {value:.6g} |" for name, value in sorted(metrics.items())]
    return [f"## {title}", "", "| metric | value |", "| --- | --- |", *rows]


def _evaluations(evaluations: Iterable[Evaluation]) -> list[str]:
    rows = [
        f"| {_inline(one.title)} | {_inline(name)} | {value:.6g} | "
        f"{'' if one.dataset is None else _inline(one.dataset.name or one.dataset.digest)} |"
        for one in evaluations
        for name, value in sorted(one.metrics.items())
    ]
    if not rows:
        return []
    head = ["| evaluation | metric | value | data |", "| --- | --- | --- | --- |"]
    return ["## Evaluations since", "", *head, *rows]


def _data(datasets: Iterable[Dataset]) -> list[str]:
    rows = [
        f"| {_inline(one.split)} | {_inline(one.name)} | {one.row_count or ''} | `{one.digest}` |"
        for one in datasets
    ]
    if not rows:
        return []
    return ["## Data", "", "| split | name | rows | digest |", "| --- | --- | --- | --- |", *rows]


def _code(title: str, language: str, text: str) -> list[str]:
    if not text:
        return []
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"## {title}", "", f"{fence}{language}", text.rstrip("\n"), fence]


def _use(version: Version) -> str:
    return (
        "from lorry_client import Client\n\n"
        "with Client() as lorry:\n"
        f'    print(lorry.generate("…", {version.reference!r}).text)'
    )


def _index(
    name: str, version: Version, evaluations: Iterable[Evaluation]
) -> list[dict[str, object]]:
    """As hubs list results: one entry for each data set that something was measured on."""
    test = next((one for one in version.lineage.datasets if one.split == "test"), None)
    measured = [("" if test is None else test.name, version.lineage.metrics)]
    measured += [
        ("" if one.dataset is None else one.dataset.name, one.metrics) for one in evaluations
    ]
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": data or "held-out", "type": data or "held-out"},
            "metrics": [
                {"type": key, "value": value, "name": key} for key, value in sorted(metrics.items())
            ],
        }
        for data, metrics in measured
        if metrics
    ]
    return [{"name": name, "results": results}] if results else []


def _yaml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _inline(text: str) -> str:
    """Text that users wrote, as text: on one line, and no Markdown of a table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
