"""The report: one page of HTML with everything in it, figures, curves and the confusion of labels.

The same results give the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from lorry_trainer.figures import side_by_side, words_of
from lorry_trainer.judge import Judgement
from lorry_trainer.plot import draw_confusion

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "pre{background:#f6f6f6;padding:.6em;white-space:pre-wrap}.bad{color:#a00}.good{color:#070}"
)
_MOST_LABELS = 100
_MOST_SAMPLES = 10


def page(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def scores(metrics: Mapping[str, float], columns: Sequence[tuple[str, str]]) -> str:
    """A table of every figure that some column has; `columns` are (heading, prefix of its figures)."""
    headings, rows = side_by_side(metrics, columns)
    return table(["", *headings], [[words_of(name), *cells] for name, *cells in rows])


def gate(missed: Sequence[str], required: bool) -> str:
    if not required:
        return ""
    if not missed:
        return '<p class="good">All that the recipe requires is met.</p>'
    return '<p class="bad">Not met: ' + escape("; ".join(missed)) + ".</p>"


def labels(judged: Judgement | None) -> str:
    if judged is None or not judged.per_label:
        return ""
    rows = [
        [name, f"{f.precision:.3f}", f"{f.recall:.3f}", f"{f.f1:.3f}", str(f.rows)]
        for name, f in list(judged.per_label.items())[:_MOST_LABELS]
    ]
    more = len(judged.per_label) - len(rows)
    note = f"<p>and {more} labels more</p>" if more > 0 else ""
    made = "<h2>Labels</h2>" + table(["", "precision", "recall", "F1", "rows"], rows) + note
    if len(judged.labels) <= _MOST_LABELS:
        made += picture(draw_confusion(judged.labels, judged.confusion), "confusion of labels")
    return made


def samples(rows: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]) -> str:
    """(question, expected, what each answered: who, and what)."""
    if not rows:
        return ""
    shown = []
    for asked, expected, answers in rows[:_MOST_SAMPLES]:
        said = [("expected", expected), *answers]
        width = 1 + max(len(who) for who, _ in said)
        lines = [f"{who + ':':<{width}} {what}" for who, what in said]
        shown.append(f"<pre>{escape(asked)}\n\n{escape(chr(10).join(lines))}</pre>")
    return "<h2>Rows</h2>" + "\n".join(shown)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heading = "".join(f"<th>{escape(h)}</th>" for h in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{heading}</tr>{lines}</table>"


def picture(figure: Figure, words: str) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="png", metadata={"Software": None})
    data = base64.b64encode(held.getvalue()).decode()
    return f'<p><img alt="{escape(words)}" src="data:image/png;base64,{data}"></p>'
