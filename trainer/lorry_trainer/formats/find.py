"""Which format the rows have, found from the first one's columns; and, where no format has such names, what is plain
enough: two columns are a question and its answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lorry_trainer.errors import DataError
from lorry_trainer.formats import FORMATS
from lorry_trainer.formats.columns import Finder, all_names, content, has
from lorry_trainer.objectives import OBJECTIVES
from lorry_trainer.read import Row
from lorry_trainer.recipe import Columns, Data

_PAIRS = {"instruction": ("instruction", "output"), "labelled": ("text", "label")}


def find_columns(rows: list[Row], data: Data, formats: Collection[str]) -> Data:
    """`data` with its format found, and columns of unusual names where it is plain what they are."""
    if data.format != "auto":
        return data.model_copy(update={"format": find_format(rows, data, formats)})
    others = [name for name in formats if name != "text"]  # `text, label` is a pair too
    try:
        return data.model_copy(update={"format": find_format(rows, data, others)})
    except DataError:
        if data.columns == Columns() and (found := _plain(rows[0].values, formats)):
            name, columns = found
            return data.model_copy(update={"format": name, "columns": Columns(**columns)})
    return data.model_copy(update={"format": find_format(rows, data, formats)})


def told(rows: list[Row], data: Data) -> str:
    """What was taken for what in the first row, and what of it no row uses; `data` has its format. Empty where
    the first row has the format's own columns and no others."""
    values = rows[0].values
    finder = Finder(FORMATS[data.format], data)
    names = finder.names(values)
    used = {
        name if name in row.values else name.partition(".")[0]
        for row in rows
        for name in finder.names(row.values).values()
    }
    unused = [name for name in values if name not in used]
    parts: list[str] = []
    if any(column != name for column, name in names.items()):
        if data.format == "instruction":
            about = f" about {names['context']}" if "context" in names else ""
            parts.append(f"{names['instruction']} is asked{about}, {names['output']} answered")
        else:
            read = [f"{name} as {column}" for column, name in names.items() if name != column]
            parts.append(f"read {', '.join(read)}")
    if unused:
        parts.append(f"not used: {', '.join(unused)}")
    return "; ".join(parts)


def find_format(rows: list[Row], data: Data, formats: Collection[str]) -> str:
    """The only one of `formats` whose columns the first row has, `text` where no other fits. Raises DataError naming
    the columns when there is not one."""
    if data.format != "auto":
        if data.format not in formats:
            raise DataError(
                f"data.format is {data.format}; the recipe's objective reads {', '.join(formats)}"
            )
        return data.format
    values = rows[0].values
    fitting = [name for name in formats if Finder(FORMATS[name], data).fits(values)]
    if (
        len(fitting) > 1
    ):  # data sets of instructions often have the whole prompt as a text beside them
        fitting = [name for name in fitting if name != "text"]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(all_names(values))
    for column, name in data.columns:
        if name and not has(values, name):
            raise DataError(
                f"{rows[0].place}: data.columns.{column} is {name}, and there is no such column; it has {found}"
            )
    if fitting:
        raise DataError(
            f"{rows[0].place}: columns {found} fit {' and '.join(fitting)}; set data.format"
        )
    needs = "; ".join(f"{name} needs {', '.join(FORMATS[name].required)}" for name in formats)
    elsewhere = _readers(values)
    example = ", ".join(
        f"{column}: …" for column in FORMATS[next(iter(formats), "instruction")].required
    )
    way_out = (
        f"they fit `objective: {' or '.join(elsewhere)}`"
        if elsewhere
        else f"name yours under data.columns, as in `columns: {{{example}}}`"
    )
    raise DataError(f"{rows[0].place}: columns {found} fit no format ({needs}); {way_out}")


def _readers(values: dict[str, Any]) -> list[str]:
    """The objectives that read such a row."""
    fitting = {name for name, form in FORMATS.items() if Finder(form, Data(path="x")).fits(values)}
    return [name for name, formats in OBJECTIVES.items() if fitting & set(formats)]


def _plain(values: dict[str, Any], formats: Collection[str]) -> tuple[str, dict[str, str]] | None:
    """A text and its label, two columns of whatever names, or one object with a text in two languages."""
    own = content(values)
    if "instruction" in formats:
        labelled = Finder(FORMATS["labelled"], Data(path="x"))
        if labelled.fits(values):
            names = labelled.names(values)
            columns = {"instruction": names["text"], "output": names["label"]}
            return "instruction", columns | ({"context": names["pair"]} if "pair" in names else {})
    if "translation" in formats and len(own) == 1:
        ((name, value),) = own.items()
        if isinstance(value, dict) and len(value) == 2:
            source, target = value
            return "translation", {"source": f"{name}.{source}", "target": f"{name}.{target}"}
    scalars = [n for n, value in own.items() if not isinstance(value, list | dict)]
    preferred = Finder(FORMATS["preference"], Data(path="x")).fits(values)
    if len(own) == len(scalars) == 2 and not preferred:
        for name, (first, second) in _PAIRS.items():
            if name in formats:
                return name, {first: scalars[0], second: scalars[1]}
    return None
