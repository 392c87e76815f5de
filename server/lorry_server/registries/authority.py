"""Who calls this server, as a registry elsewhere says: the caller's own token is shown to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC

from lorry.registry.v1 import access_service_pb2
from lorry_registry.access.authority import (
    TRUST_SECONDS,
    Credentials,
    QuotaBook,
    Remembered,
    by_certificate,
)
from lorry_registry.access.entities import ANYONE, AuditEvent, Caller, Quotas
from lorry_registry.access.rights import Rights, parse_grant
from lorry_registry.access.settings import AccessSettings
from lorry_registry.errors import LorryError, Unauthenticated, Unavailable
from lorry_registry.principal import ANONYMOUS

GRACE_SECONDS = 300.0
"""How long a caller whom the registry knew last is served while it is away. An unknown one is refused at once."""

_PATIENCE_SECONDS = 1.0
_BETWEEN_PROBES_SECONDS = 2.0
_LOG = logging.getLogger(__name__)

CallerOf = Callable[[str], Awaitable[Caller]]
QuotasOf = Callable[[str], Awaitable[Quotas]]


class AuthorityElsewhere:
    """An Authority that asks a registry, at most once a second for each caller.

    Certificates are judged here, by the access file: a registry sees this server's own, and no other.
    """

    def __init__(
        self, caller_of: CallerOf, quotas_of: QuotasOf, settings: AccessSettings | None = None
    ) -> None:
        self._caller_of = caller_of
        self._quotas = QuotaBook(quotas_of)
        self._clock = time.monotonic
        self._away_until = (
            0.0  # by the clock: till then, nobody who is known waits for the registry
        )
        self._settings = settings or AccessSettings()
        self._callers: Remembered[Caller] = Remembered(TRUST_SECONDS)

    async def identify(self, credentials: Credentials) -> Caller:
        token = credentials.bearer
        if not token:
            return by_certificate(self._settings, credentials)
        known = self._callers.get(token)
        if known is not None and not known.rights.are_over:
            return known
        last = self._callers.get(token, within=GRACE_SECONDS)
        if last is not None and last.rights.are_over:
            last = None
        if last is not None and self._clock() < self._away_until:
            return last
        try:
            # Whoever was known a moment ago does not wait long for a registry that hangs.
            async with asyncio.timeout(None if last is None else _PATIENCE_SECONDS):
                known = await self._caller_of(token)
        except (Unavailable, TimeoutError):
            self._away_until = self._clock() + _BETWEEN_PROBES_SECONDS
            if last is None:
                raise
            return last
        except LorryError:
            self._callers.drop(token)
            raise
        self._callers.put(token, known)
        return known

    async def quotas(self, namespace: str) -> Quotas:
        return await self._quotas.quotas(namespace)

    async def record(self, event: AuditEvent) -> None:
        """Into this server's own log: the registry's is about what is done there."""
        _LOG.warning(
            "audit: %s %s by %s from %s: %s %s",
            event.action, event.resource, event.principal, event.peer, event.outcome, event.reason,
        )  # fmt: skip


class OpenDoor(AuthorityElsewhere):
    """Asks nobody who they are; quotas hold all the same."""

    async def identify(self, credentials: Credentials) -> Caller:
        return ANYONE


def read_caller(answer: access_service_pb2.Caller) -> Caller:
    """Out of the registry's answer.

    Raises Unauthenticated `REGISTRY_IS_OPEN` where the registry asks nobody who they are: to it, anybody is anonymous
    and has every right.
    """

    if answer.principal in ("", ANONYMOUS):
        raise Unauthenticated(
            "the registry asks nobody who they are, so it cannot tell who calls this server: start it with "
            "`lorry registry serve --auth required`",
            reason="REGISTRY_IS_OPEN",
        )
    expires = answer.HasField("expire_time")
    rights = Rights(
        tuple(parse_grant(grant) for grant in answer.grants),
        answer.expire_time.ToDatetime(tzinfo=UTC) if expires else None,
    )
    return Caller(answer.principal, rights)
