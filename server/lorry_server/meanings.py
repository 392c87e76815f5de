"""What references mean, as long as nothing says otherwise; and what they meant last, for when the registry is away."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from lorry_registry.entities import AdapterKey
from lorry_server.registries import Meaning

Moment = tuple[int, int]

_MAX_REMEMBERED = 10_000


@dataclass(slots=True)
class _Known:
    meaning: Meaning
    holds: bool  # nothing has happened to the adapter since


class Meanings:
    """By reference, the least recently used forgotten first. Lives on the event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._references: dict[AdapterKey, set[str]] = {}
        self._changed: OrderedDict[AdapterKey, int] = OrderedDict()  # position of the newest event
        self._unknown_up_to = 0  # adapters that are not in `_changed` may have changed up to there
        self._gaps = 0

    def holding(self, reference: str) -> Meaning | None:
        """What the reference means, where no event since says otherwise."""
        known = self._known.get(reference)
        if known is None or not known.holds:
            return None
        self._known.move_to_end(reference)
        return known.meaning

    def last(self, reference: str) -> Meaning | None:
        """What the reference meant when it was last asked for."""
        known = self._known.get(reference)
        return None if known is None else known.meaning

    def moment(self, position: int) -> Moment:
        """When the events had reached `position`, as it is counted since events were missed last."""
        return (self._gaps, position)

    def put(self, reference: str, meaning: Meaning, as_of: Moment | None) -> None:
        """What a reference means: read after `as_of`; None where that is not known."""
        key = meaning.key
        newest = self._changed.get(key, self._unknown_up_to)
        holds = as_of is not None and as_of[0] == self._gaps and newest <= as_of[1]
        self._known[reference] = _Known(meaning, holds)
        self._known.move_to_end(reference)
        self._references.setdefault(key, set()).add(reference)
        if len(self._known) > _MAX_REMEMBERED:
            self.forget(next(iter(self._known)))

    def changed(self, key: AdapterKey, position: int) -> None:
        """Something happened to an adapter: what its references mean has to be asked again."""
        for reference in self._references.get(key, ()):
            self._known[reference].holds = False
        self._changed[key] = position
        self._changed.move_to_end(key)
        if len(self._changed) > _MAX_REMEMBERED:
            _, dropped = self._changed.popitem(last=False)
            self._unknown_up_to = max(self._unknown_up_to, dropped)

    def all_changed(self) -> None:
        """Events were missed: nothing is known to hold."""
        for known in self._known.values():
            known.holds = False
        self._changed.clear()
        self._unknown_up_to = 0
        self._gaps += 1

    def forget(self, reference: str) -> None:
        known = self._known.pop(reference, None)
        if known is not None:
            references = self._references[known.meaning.key]
            references.discard(reference)
            if not references:
                del self._references[known.meaning.key]

    def forget_version(self, key: AdapterKey, digest: str) -> None:
        """All references that mean it, alone or beside others."""
        for reference in list(self._references.get(key, ())):
            versions = self._known[reference].meaning.versions
            if any(version.digest == digest for version, _ in versions):
                self.forget(reference)

    def forget_adapter(self, key: AdapterKey) -> None:
        for reference in list(self._references.get(key, ())):
            self.forget(reference)
