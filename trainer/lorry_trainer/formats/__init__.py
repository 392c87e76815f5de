"""Formats: what the columns of a row mean. A file here and a line in `FORMATS` each; which objective reads which
formats stands in `lorry_trainer.objectives`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from lorry_trainer.errors import DataError
from lorry_trainer.formats.chat import Chat
from lorry_trainer.formats.columns import Finder
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
from lorry_trainer.recipe import Data
from lorry_trainer.wording import counted

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
MAY_BE_LABELS = ("instruction", "messages", "prompt_completion")  # what is answered there
ASK_NOTHING = ("text", "tagged")
WITHOUT_CHAT = ("text", "labelled", "tagged", "span")


def examples(
    rows: Iterable[Row], format_name: str, data: Data, notes: list[str] | None = None
) -> list[Example]:
    """All rows as examples. The columns are those of `data.columns`, or else the first usual name that a row has.

    Raises DataError with every row that is refused, up to ten; with `data.unfit: skip` they are told in `notes`.
    """
    form = FORMATS[format_name]
    _refuse_keys_without_effect(format_name, data)
    finder = Finder(form, data)
    made: list[Example] = []
    faults: dict[str, list[str]] = defaultdict(list)  # what is wrong -> where
    for row in rows:
        try:
            made.append(form.example(row, finder.own_columns(row), data))
        except DataError as error:
            faults[error.message.removeprefix(f"{row.place}: ")].append(row.place)
    if faults and (data.unfit == "refuse" or not made):
        told = _told(faults)
        more = f"\n… and {len(told) - 10} more" if len(told) > 10 else ""
        way_out = "\nMend these rows, or leave them out with data.unfit: skip" if made else ""
        raise DataError("\n".join(told[:10]) + more + way_out)
    if faults and notes is not None:
        count = sum(map(len, faults.values()))
        told = _told(faults)
        notes.append(
            f"{counted(count, 'row does', 'rows do')} not fit, left out ({'; '.join(told[:3])}{' …' * (len(told) > 3)})"
        )
    return made


def _told(faults: dict[str, list[str]]) -> list[str]:
    """A line for each row, and one for all where many have the same fault."""
    lines: list[str] = []
    for fault, places in faults.items():
        if len(places) > 3:
            lines.append(f"{places[0]}: {fault} (and so in {len(places) - 1} more rows)")
        else:
            lines += [f"{place}: {fault}" for place in places]
    return lines


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
    if isinstance(data.labels, tuple) and format_name not in (*MAY_BE_LABELS, "labelled", "tagged"):
        raise DataError(f"data.labels: format {format_name} has no labels; leave it out")
    if data.labels == "any" and format_name not in MAY_BE_LABELS:
        raise DataError(
            f"data.labels: any says that answers are no labels, as they may be in {', '.join(MAY_BE_LABELS)}; the "
            f"format is {format_name}; leave it out"
        )
    if data.augment and format_name in ASK_NOTHING:
        raise DataError(
            f"data.augment says questions otherwise, and format {format_name} asks none; leave it out"
        )
