"""A question, a text, and the piece of it that is the answer, as SQuAD has it."""

from __future__ import annotations

from typing import Any, ClassVar

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example, Names, text
from lorry_trainer.read import Row
from lorry_trainer.recipe import Data


class Span:
    required: ClassVar[Names] = {
        "question": ("question", "query"),
        "context": ("context", "passage"),
        "answer": ("answer", "answers"),
    }
    optional: ClassVar[Names] = {"start": ("start", "answer_start")}

    def example(self, row: Row, values: dict[str, Any], data: Data) -> Example:
        question = text(row, "question", values["question"])
        context = text(row, "context", values["context"])
        answer, start = _first_answer(row, values["answer"], values.get("start"))
        start = context.find(answer) if start is None else start
        if start < 0 or context[start : start + len(answer)] != answer:
            raise DataError(
                f"{row.place}: the answer {answer[:40]!r} does not stand in the context"
                + (f" at {start}" if start >= 0 else "")
                + "; an extracted answer is a piece of it, letter for letter"
            )
        record = {"question": question, "context": context, "answer": answer, "start": start}
        return Example(row.place, record, question, answer, [question, context])


def _first_answer(row: Row, answer: Any, start: Any) -> tuple[str, int | None]:
    """The first of several; SQuAD keeps texts and places in an object of two lists."""
    if isinstance(answer, dict):
        answer, start = answer.get("text"), answer.get("answer_start")
    if isinstance(answer, list):
        answer = answer[0] if answer else None
    if isinstance(start, list):
        start = start[0] if start else None
    if isinstance(start, str) and start.isdigit():  # as CSV has it
        start = int(start)
    if start is not None and type(start) is not int:
        raise DataError(f"{row.place}: start must be the answer's first character, not {start!r}")
    if answer is None:
        raise DataError(
            f"{row.place}: no answer, as SQuAD 2 has it where the context holds none; an extraction needs one"
        )
    return text(row, "answer", answer), start
