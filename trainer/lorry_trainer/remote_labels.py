"""What the labels of rows are called, where a version that learnt such rows is asked for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import yaml

from lorry_trainer.errors import DataError
from lorry_trainer.formats.contract import Example
from lorry_trainer.metrics import normalised
from lorry_trainer.wording import counted


def numbering(recipe: str) -> tuple[str, ...]:
    """The names that numbers stood for in training, from 0, by the recipe in a version's lineage; none where it tells
    none. A head's own order is another one: its labels stand by the alphabet."""
    try:
        found = yaml.safe_load(recipe)
    except yaml.YAMLError:  # a version may have been pushed with any text
        return ()
    match found:
        case {"data": {"labels": [*names]}}:
            return tuple(map(str, names))
    return ()


def by_name(rows: Sequence[Example], names: tuple[str, ...]) -> list[Example]:
    """The rows with what their numbers stand for among `names`; what is a name already stays."""
    return [_named(row, names) for row in rows]


def _named(row: Example, names: tuple[str, ...]) -> Example:
    if row.answer in names or not row.answer.isdecimal() or int(row.answer) >= len(names):
        return row
    return replace(row, answer=names[int(row.answer)])


def all_among(rows: Sequence[Example], labels: Collection[str]) -> bool:
    """Whether no row has another label; `labels` as `normalised` has them."""
    return bool(labels) and all(normalised(row.answer) in labels for row in rows)


def refuse_other_labels(rows: Sequence[Example], labels: Collection[str], who: str) -> None:
    """Raise DataError where rows have a label that is none of a head's: it could not be answered."""
    strange = [row for row in rows if normalised(row.answer) not in labels]
    if not strange:
        return
    some = "; ".join(f"{row.place}: {row.answer!r}" for row in strange[:5])
    more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
    way_out = (
        "write the names in place of numbers: data.labels in the recipe that it was trained by names none for these"
        if strange[0].answer.isdecimal()
        else "mend these rows, or take them out"
    )
    raise DataError(
        f"{counted(len(strange), 'row has', 'rows have')} a label that {who} does not know ({some}{more}); it knows "
        f"{', '.join(sorted(labels)[:12])}{' …' if len(labels) > 12 else ''}. So {way_out}"
    )
