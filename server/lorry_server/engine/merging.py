"""Which adapter is to be merged: *decide*. One at a time; knows no torch.

An operator's word comes first, then what requests ask for, then what pays, where the server is to see to that
(`automerge`). Where it is not, what a request asked for stays merged while nobody else would have to pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorry_server.engine.stats import MergeCause


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is to know between two steps. Adapters are digests."""

    current: str | None  # merged, or about to be
    ordered: str | None  # by an operator
    wish: str | None  # what the oldest request wants that waits for a merge
    held: bool  # a request runs that wanted the current one merged
    starved: bool  # a request waits for a slot, and none is to be had
    others_run: bool  # requests of others than the current one
    is_auto: bool = False  # the server merges by itself, and then
    pays: str | None = None  # this is what pays


def decide(now: Situation) -> tuple[str | None, MergeCause]:
    """The adapter that is to be merged, and who wants that."""
    if now.ordered is not None:
        return now.ordered, "operator"
    if now.held:
        return now.current, "request"
    if now.wish is not None:
        return now.wish, "request"
    if now.starved:
        return None, "request"
    if now.is_auto:
        return now.pays, "auto"
    return (None if now.others_run else now.current), "request"
