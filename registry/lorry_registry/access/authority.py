"""Who says what a call's credentials are good for. A registry says so itself; a server may ask one elsewhere."""

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from lorry_registry.access.access import Access
from lorry_registry.access.entities import ANYONE, AuditEvent, Caller, Quotas
from lorry_registry.access.settings import AccessSettings
from lorry_registry.errors import FailedPrecondition, LorryError, Unauthenticated

if TYPE_CHECKING:
    from lorry_registry.access.oidc import OidcVerifier

T = TypeVar("T")

TRUST_SECONDS = 1.0
"""How long what was found out about a token holds without asking again: so late does a revocation take effect."""
QUOTA_SECONDS = 2.0
"""As `TRUST_SECONDS`, for a namespace's quotas."""
_MAX_REMEMBERED = 10_000
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call brings to say who makes it."""

    bearer: str = ""
    certificate_names: tuple[str, ...] = ()
    """Of the client certificate that TLS verified: URIs and DNS names first, then the common name."""


class Authority(Protocol):
    """Coroutines never block; whatever fails is a LorryError."""

    async def identify(self, credentials: Credentials) -> Caller:
        """Who calls.

        Raises:
            Unauthenticated: nobody knows.
            Unavailable: who would know is away, and nothing is remembered of these credentials.
        """
        ...

    async def quotas(self, namespace: str) -> Quotas:
        """Those in force; none for a namespace that nobody created."""
        ...

    async def record(self, event: AuditEvent) -> None:
        """Returns once the event is in the log."""
        ...


class Remembered(Generic[T]):
    """Answers by question, each for a short time. Lives on an event loop; keys are hashed, so that none is a secret."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._answers: OrderedDict[bytes, tuple[T, float]] = OrderedDict()  # oldest first

    def get(self, question: str, *, within: float | None = None) -> T | None:
        """The answer, where it is younger than `within` seconds (by default those it was made with)."""
        found = self._answers.get(_key(question))
        if found is None:
            return None
        answer, moment = found
        age = self._clock() - moment
        return answer if age < (self._seconds if within is None else within) else None

    def put(self, question: str, answer: T) -> None:
        key = _key(question)
        self._answers[key] = (answer, self._clock())
        self._answers.move_to_end(key)
        if len(self._answers) > _MAX_REMEMBERED:
            self._answers.popitem(last=False)

    def drop(self, question: str) -> None:
        self._answers.pop(_key(question), None)


class QuotaBook:
    """Namespaces' quotas, looked up now and then; nobody waits for those that are known. Lives on an event loop."""

    def __init__(self, look_up: Callable[[str], Awaitable[Quotas]]) -> None:
        self._look_up = look_up
        self._known: Remembered[Quotas] = Remembered(QUOTA_SECONDS)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def quotas(self, namespace: str) -> Quotas:
        """Those last known, while a look-up runs beside; without any, those that it finds. None where it fails."""
        known = self._known.get(namespace)
        if known is not None:
            return known
        asking = self._asking.get(namespace)
        if asking is None:
            asking = self._asking[namespace] = asyncio.create_task(self._refresh(namespace))
            asking.add_done_callback(lambda _: self._asking.pop(namespace, None))
        stale = self._known.get(namespace, within=math.inf)
        if stale is not None:
            return stale
        await asyncio.shield(asking)
        return self._known.get(namespace, within=math.inf) or Quotas()

    async def _refresh(self, namespace: str) -> None:
        try:
            self._known.put(namespace, await self._look_up(namespace))
        except Exception as error:
            # Away, or none: what held last holds on, and nothing is bounded that nobody bounded.
            self._known.put(namespace, self._known.get(namespace, within=math.inf) or Quotas())
            if not isinstance(error, LorryError):
                _LOG.exception("the quotas of %s could not be looked up", namespace)


class OpenAuthority:
    """Asks nobody who they are: for a registry that only its own machine can reach. Quotas hold, the log is kept."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._quotas = QuotaBook(lambda name: asyncio.to_thread(access.quotas, name))

    async def identify(self, credentials: Credentials) -> Caller:
        return ANYONE

    async def quotas(self, namespace: str) -> Quotas:
        return await self._quotas.quotas(namespace)

    async def record(self, event: AuditEvent) -> None:
        await asyncio.to_thread(self._access.record, event)


class RegistryAuthority(OpenAuthority):
    """Knows callers by the registry's own tokens, and by what the access file names: certificates, OIDC tokens."""

    def __init__(self, access: Access, settings: AccessSettings | None = None) -> None:
        super().__init__(access)
        self._settings = settings or AccessSettings()
        self._verifier = _verifier(self._settings)
        self._callers: Remembered[Caller] = Remembered(TRUST_SECONDS)

    async def identify(self, credentials: Credentials) -> Caller:
        if not credentials.bearer:
            return by_certificate(self._settings, credentials)
        known = self._callers.get(credentials.bearer)
        if known is None or known.rights.are_over:
            caller_of = self._access.caller_of
            if self._verifier is not None and looks_like_jwt(credentials.bearer):
                caller_of = self._verifier.caller_of
            known = await asyncio.to_thread(caller_of, credentials.bearer)
            self._callers.put(credentials.bearer, known)
        return known


def _verifier(settings: AccessSettings) -> "OidcVerifier | None":
    if settings.oidc is None:
        return None
    try:
        from lorry_registry.access.oidc import OidcVerifier
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"the access file has [oidc], and the Python module {error.name} is missing: pip install 'lorry[oidc]'",
            reason="MODULE_MISSING",
        ) from error
    return OidcVerifier(settings.oidc)


def looks_like_jwt(token: str) -> bool:
    """Three parts, as no token of ours has."""
    return token.count(".") == 2


def by_certificate(settings: AccessSettings, credentials: Credentials) -> Caller:
    """Whose certificate that is. Raises Unauthenticated: `TOKEN_MISSING`, `CERTIFICATE_UNKNOWN`."""
    for name in credentials.certificate_names:
        if (rights := settings.certificates.get(name)) is not None:
            return Caller(f"certificate:{name}", rights)
    if not credentials.certificate_names:
        raise no_credentials()
    raise Unauthenticated(
        f"the client's certificate ({', '.join(credentials.certificate_names)[:200]}) stands in no line of the access "
        "file, and no token came with it: add the one, or send the other",
        reason="CERTIFICATE_UNKNOWN",
    )


def no_credentials() -> Unauthenticated:
    return Unauthenticated(
        "this server wants to know who calls: set LORRY_TOKEN or LORRY_TOKEN_FILE to a token (`lorry tokens create`), "
        "or send `authorization: Bearer …`",
        reason="TOKEN_MISSING",
    )


def _key(question: str) -> bytes:
    return hashlib.sha256(question.encode()).digest()
