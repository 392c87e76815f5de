"""Formats: what the columns of a row mean. A file here and a line in `FORMATS` each; which objective reads which
formats stands in `lorry_trainer.objectives`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from lorry_trainer.errors import DataError
from lorry_trainer.formats.chat import Chat
from lorry_trainer.formats.contract import Example, Format
from lorry_trainer.formats.instruction import Instruction
from lorry_trainer.formats.labelled import Labelled
from lorry_trainer.formats.plain import Plain
from lorry_trainer.formats.preference import Preference, Unpaired
from lorry_trainer.formats.prompt_completion import PromptCompletion
from lorry_trainer.formats.question import Question
from lorry_trainer.formats.span import Span
from lorry_trainer.formats.tagged import Tagged
from lorry_trainer.formats.translation import Translation
from lorry_trainer.read import Row
from lorry_trainer.recipe import Columns, Data

FORMATS: dict[str, Format] = {
    "instruction": Instruction(),
    "messages": Chat(),
    "prompt_completion": PromptCompletion(),
    "text": Plain(),
    "translation": Translation(),
    "labelled": Labelled(),
    "tagged": Tagged(),
    "span": Span(),
    "preference": Preference(),
    "unpaired": Unpaired(),
    "question": Question(),
}
WITHOUT_CHAT = ("labelled", "tagged", "span")  # read by models with a head


def examples(rows: Iterable[Row], format_name: str, data: Data) -> list[Example]:
    """All rows as examples. The columns are those of `data.columns`, or else the first usual name that a row has.

    Raises DataError with every row that is refused, up to ten.
    """
    form = FORMATS[format_name]
    _refuse_keys_without_effect(format_name, data)
    made: list[Example] = []
    faults: list[str] = []
    for row in rows:
        try:
            made.append(form.example(row, _own_columns(row, form, data), data))
        except DataError as error:
            faults.append(error.message)
    if faults:
        more = f"\n… and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise DataError("\n".join(faults[:10]) + more)
    return made


def _refuse_keys_without_effect(format_name: str, data: Data) -> None:
    """Raise DataError where the recipe says something to a format that has no ear for it."""
    form = FORMATS[format_name]
    columns = [*form.required, *form.optional]
    for name, given in data.columns:
        if given and name not in columns:
            raise DataError(
                f"data.columns.{name}: format {format_name} has no such column; it has {', '.join(columns)}"
            )
    if data.system and format_name in WITHOUT_CHAT:
        raise DataError(
            f"data.system needs a chat, and format {format_name} has none; leave it out"
        )
    if format_name != "instruction" and data.template != Data.model_fields["template"].default:
        raise DataError(
            f"data.template is for format instruction, and the format is {format_name}; leave it out"
        )


def find_columns(rows: list[Row], data: Data, formats: Collection[str]) -> Data:
    """`data` with its format found, and two columns of text of whatever names taken for a question and its answer."""
    columns = [n for n, value in rows[0].values.items() if isinstance(value, str)]
    nothing_given = data.format == "auto" and data.columns == Columns()
    if nothing_given and "instruction" in formats and len(rows[0].values) == len(columns) == 2:
        others = [name for name in formats if name != "text"]  # `text, label` is a pair too
        try:
            return data.model_copy(update={"format": find_format(rows, data, others)})
        except DataError:
            pair = Columns(instruction=columns[0], output=columns[1])
            return data.model_copy(update={"format": "instruction", "columns": pair})
    return data.model_copy(update={"format": find_format(rows, data, formats)})


def find_format(rows: list[Row], data: Data, formats: Collection[str]) -> str:
    """The only one of `formats` whose columns the first row has, `text` where no other fits. Raises DataError naming
    the columns when there is not one."""
    if data.format != "auto":
        if data.format not in formats:
            raise DataError(
                f"data.format is {data.format}; the recipe's objective reads {', '.join(formats)}"
            )
        return data.format
    columns = rows[0].values
    fitting = [
        name
        for name in formats
        if all(
            _find(column, usual, columns, data) for column, usual in FORMATS[name].required.items()
        )
    ]
    if (
        len(fitting) > 1
    ):  # data sets of instructions often have the whole prompt as a text beside them
        fitting = [name for name in fitting if name != "text"]
    if len(fitting) == 1:
        return fitting[0]
    needs = "; ".join(f"{name} needs {', '.join(FORMATS[name].required)}" for name in formats)
    found = ", ".join(columns)
    if fitting:
        raise DataError(
            f"{rows[0].place}: columns {found} fit {' and '.join(fitting)}; set data.format"
        )
    raise DataError(
        f"{rows[0].place}: columns {found} fit no format ({needs}); name yours under data.columns"
    )


def _find(column: str, usual: tuple[str, ...], present: dict[str, Any], data: Data) -> str | None:
    given: str | None = getattr(data.columns, column)
    return next((name for name in ([given] if given else usual) if name in present), None)


def _own_columns(row: Row, form: Format, data: Data) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for column, usual in (form.required | form.optional).items():
        if (name := _find(column, usual, row.values, data)) is not None:
            own[column] = row.values[name]
        elif column in form.required or getattr(data.columns, column):
            wanted = getattr(data.columns, column) or column
            raise DataError(
                f"{row.place}: no column {wanted!r}; it has {', '.join(row.values) or 'none'}"
            )
    return own
