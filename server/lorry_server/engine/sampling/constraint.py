"""What may come next in a sequence that must have a form: the engine asks, and knows nothing of the form."""

from __future__ import annotations

from typing import Protocol


class TokenConstraint(Protocol):
    """Says, token by token, what may follow. One sequence's own; used on the engine's thread alone.

    Each method may raise a LorryError, which ends the sequence and no other.
    """

    def allowed(self) -> bytes:
        """One bit for each id, the lowest of a byte first, padded: those that may come next, stop tokens included."""

    def accept(self, token_id: int) -> None:
        """The token has been chosen, and the sequence goes on."""
