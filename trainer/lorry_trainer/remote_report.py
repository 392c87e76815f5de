"""The page of an evaluation through a server."""

from __future__ import annotations

from html import escape
from pathlib import Path

from lorry_trainer import report
from lorry_trainer.card import asked_of
from lorry_trainer.errors import OutputError
from lorry_trainer.remote import Asked


def write_report(asked: Asked, reference: str, path: Path) -> None:
    """Raises OutputError."""
    prefixes = [(who, f"{i} ") for i, who in enumerate(asked.answers)]
    metrics = {
        prefix + name: value
        for (who, prefix) in prefixes
        for name, value in asked.metrics()[who].items()
    }
    base = asked.answers.get("base", [""] * len(asked.questions.rows))
    rows = [
        (asked_of(row), row.answer, before, after)
        for row, before, after in zip(
            asked.questions.rows, base, asked.answers[reference], strict=True
        )
    ]
    page = report.page(
        f"{reference} on {Path(asked.questions.name).name}",
        [
            f"<p>{len(asked.questions.rows)} rows, answered by {escape(asked.acted[reference] or 'the base')}. "
            "In brackets: 95 % by bootstrap.</p>",
            report.scores(metrics, prefixes),
            report.labels(asked.judged[reference]),
            report.samples(rows),
        ],
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
