"""Whether merging an adapter pays by itself: credits, and hysteresis around them. Knows no torch.

After dLoRA (Wu et al., OSDI 2024), whose scheduler weighs what merged execution saves against what a switch costs, with
constants measured on its engine. There others wait while an adapter is merged; here they run on and cost a little more,
so nobody can starve, and the rule is about work alone. In each step an adapter earns what its own tokens would have
saved, merged, and pays for everybody else's. It is merged once it has earned many times what a merge costs, and
unmerged once it has lost all that again.
"""

from __future__ import annotations

from collections.abc import Mapping

# In tokens' time, unmerged; measured by `loadtests/merged.py` on lorry-tiny and one core.
SAVED = 0.14  # for each token of the merged adapter
PAID = 0.21  # for each token of anybody else: what is taken off again
MERGE_TOKENS = 45.0  # what it costs to make the shadows
ENOUGH = 20 * MERGE_TOKENS  # so that merges take a twentieth of what they save at the most
FORGOTTEN = 0.02  # of a credit in each step that has no token of the adapter: what was popular once


class AutoMerge:
    """Books every step, and says which adapter is to be merged. Adapters are digests."""

    def __init__(self, enough: float = ENOUGH) -> None:
        self._enough = enough
        self._credits: dict[str, float] = {}
        self._given_up: set[str] = set()  # could not be merged, and will not be soon

    def account(self, tokens: Mapping[str | None, int]) -> None:
        """Books a step: the tokens of each adapter, None for the bare base."""
        total = sum(tokens.values())
        for digest in self._credits.keys() | {d for d in tokens if d is not None}:
            own = tokens.get(digest, 0)
            credit = self._credits.get(digest, 0.0) * (1.0 if own else 1.0 - FORGOTTEN)
            credit += own * SAVED - (total - own) * PAID
            if credit <= 0.0:
                self._credits.pop(digest, None)
            else:
                self._credits[digest] = min(credit, 2 * self._enough)

    def choose(self, current: str | None) -> str | None:
        """What is to be merged, given what is."""
        best = max(self._credits, key=self._credits.__getitem__, default=None)
        if best is not None and best in self._given_up:
            best = None
        leads = 0.0 if best is None else self._credits[best] - self._credits.get(current or "", 0.0)
        if current in self._credits and leads < self._enough:
            return current
        if best is not None and self._credits[best] >= self._enough:
            return best
        return None

    def give_up(self, digest: str) -> None:
        """It cannot be merged: it is not tried again."""
        self._given_up.add(digest)

    def forget(self) -> None:
        """An operator has unmerged: everybody begins anew."""
        self._credits.clear()
