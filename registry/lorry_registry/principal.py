"""Who makes a change: set by whatever authenticates a call, read by whatever records what was done."""

from contextvars import ContextVar

ANONYMOUS = "anonymous"

current_principal: ContextVar[str] = ContextVar("current_principal", default=ANONYMOUS)
"""The caller's principal. It follows a call into `asyncio.to_thread`, which carries the context along."""
