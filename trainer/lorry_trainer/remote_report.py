"""The page of an evaluation through a server."""

from __future__ import annotations

from html import escape
from pathlib import Path

from lorry_trainer import report
from lorry_trainer.errors import OutputError
from lorry_trainer.remote import Asked
from lorry_trainer.wording import counted


def write_report(asked: Asked, reference: str, path: Path) -> None:
    """Raises OutputError."""
    metrics, columns = asked.columns()
    rows = [
        (row.asked, row.answer, [(who, said[at]) for who, said in asked.answers.items()])
        for at, row in enumerate(asked.questions.rows)
    ]
    over = f" Win rates are over {escape(asked.rival)}; a tie counts half." if asked.rival else ""
    page = report.page(
        f"{reference} on {Path(asked.questions.source.name).name}",
        [
            f"<p>{counted(len(asked.questions.rows), 'row')}, answered by "
            f"{escape(asked.acted[reference] or 'the base')}. In brackets: 95 % by bootstrap.{over}</p>",
            report.scores(metrics, columns),
            report.labels(asked.judged[reference]),
            report.samples(rows),
        ],
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
