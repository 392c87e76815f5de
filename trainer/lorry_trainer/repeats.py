"""Rows that say what others have said: learnt once, and never both learnt and tested."""

from __future__ import annotations

from lorry_trainer.formats.contract import Example
from lorry_trainer.wording import counted


def without_repeats(rows: list[Example], notes: list[str], *, one_answer: bool) -> list[Example]:
    """One of rows that are the same in all that is learnt, the first; a question that is answered in two ways is told
    where it should have one answer."""
    seen: dict[str, Example] = {}
    answers: dict[str, Example] = {}
    repeated: list[str] = []
    at_odds: list[str] = []
    for row in rows:
        whole = row.whole_key
        if whole in seen:
            repeated.append(f"{row.place} is {seen[whole].place}")
            continue
        if one_answer and row.key in answers:
            at_odds.append(f"{row.place} and {answers[row.key].place}")
        seen[whole] = row
        answers.setdefault(row.key, row)
    if repeated:
        notes.append(
            f"{counted(len(repeated), 'row is', 'rows are')} there already, left out ({_some(repeated)})"
        )
    if at_odds:
        notes.append(
            f"{counted(len(at_odds), 'row answers', 'rows answer')} a question otherwise ({_some(at_odds)})"
        )
    return list(seen.values())


def without_leaks(
    rows: list[Example], others: list[Example], kind: str, notes: list[str]
) -> tuple[list[Example], int]:
    """The rows without those whose question is one of `others`, a split of that kind, which are told; and how many."""
    asked = {row.key: row for row in others}
    leaks = [f"{row.place} is {asked[row.key].place}" for row in rows if row.key in asked]
    if leaks:
        notes.append(
            f"{counted(len(leaks), 'row asks', 'rows ask')} what a {kind} row asks, left out ({_some(leaks)})"
        )
    return [row for row in rows if row.key not in asked], len(leaks)


def _some(places: list[str]) -> str:
    return "; ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
